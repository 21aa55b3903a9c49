//! Reads handwritten digits with a small convolutional network that was compiled into this program.

// The path is relative to this crate's folder; the macro makes a struct `Digits` with `DigitsInputs` and `DigitsOutputs`.
kiln::model!("digits.onnx");

/// The side of an image in pixels.
const SIDE: usize = 8;
/// Pixels of an image.
const PIXELS: usize = SIDE * SIDE;

/// The images that the network was not trained on: pixels from 0 to 16, and the digit each shows.
fn held_out() -> (Vec<[u8; PIXELS]>, Vec<usize>) {
    let (records, _) = include_bytes!("../heldout.bin").as_chunks::<{ PIXELS + 1 }>();
    records.iter().map(|r| (std::array::from_fn(|i| r[i]), usize::from(r[PIXELS]))).unzip()
}

/// The digit that the network sees in each image.
fn read(images: &[[u8; PIXELS]]) -> kiln::Result<Vec<usize>> {
    let pixels: Vec<f32> = images.as_flattened().iter().map(|p| f32::from(*p) / 16.0).collect();
    let mut net = Digits::new()?;
    // The model leaves its batch open, so the number of images follows from the number of pixels.
    let out = net.run(&pixels)?;
    let [_, classes] = out.scores.shape();
    let best = |row: &[f32]| (0..classes).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
    Ok(out.scores.chunks_exact(classes).map(best).collect())
}

/// The fraction of images that were read right.
fn accuracy(found: &[usize], labels: &[usize]) -> f64 {
    let right = found.iter().zip(labels).filter(|(f, l)| f == l).count();
    right as f64 / labels.len() as f64
}

fn main() -> kiln::Result<()> {
    let (images, labels) = held_out();
    let found = read(&images)?;
    for row in 0..SIDE {
        let line =
            |image: &[u8; PIXELS]| image[row * SIDE..][..SIDE].iter().map(|p| [' ', '.', ':', 'o', '#'][usize::from(*p) / 4]).collect();
        println!("{}", images[..6].iter().map(line).collect::<Vec<String>>().join("   "));
    }
    println!("{}", found[..6].iter().map(|f| format!("{f:^8}")).collect::<Vec<_>>().join("   "));
    println!("accuracy {:.4} on {} images", accuracy(&found, &labels), images.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_images_are_read() {
        let (images, labels) = held_out();
        assert_eq!(images.len(), 360);
        let accuracy = accuracy(&read(&images).unwrap(), &labels);
        assert!(accuracy >= 0.97, "accuracy {accuracy}");
    }
}
