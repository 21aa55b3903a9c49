//! Names the five likeliest of ImageNet's classes for a picture, with ResNet-50.

use image::RgbImage;
use image::imageops::{self, FilterType};
use std::error::Error;

kiln::model!("resnet50.onnx");

/// The side of the square that the network looks at.
const SIDE: u32 = 224;
/// Mean and deviation of the channels over ImageNet.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// See [`MEAN`].
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The picture as the network was trained to see it: the shorter side resized to 256, the middle cut out, normalized, channels first.
fn prepare(picture: &RgbImage) -> Vec<f32> {
    let (w, h) = picture.dimensions();
    let scale = 256.0 / w.min(h) as f32;
    let side = |n: u32| ((n as f32 * scale).round() as u32).max(256);
    let resized = imageops::resize(picture, side(w), side(h), FilterType::Triangle);
    let (x, y) = ((resized.width() - SIDE) / 2, (resized.height() - SIDE) / 2);
    let middle = imageops::crop_imm(&resized, x, y, SIDE, SIDE).to_image();
    let channel = |c: usize| middle.pixels().map(move |p| (f32::from(p.0[c]) / 255.0 - MEAN[c]) / DEVIATION[c]);
    (0..3).flat_map(channel).collect()
}

/// The five likeliest classes and their scores.
fn classify(net: &mut Resnet50, picture: &RgbImage) -> kiln::Result<Vec<(usize, f32)>> {
    let input = prepare(picture);
    let out = net.run(&input)?;
    let mut classes: Vec<(usize, f32)> = out.scores.iter().copied().enumerate().collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(5);
    Ok(classes)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/picture.png").into());
    let picture = image::open(path)?.to_rgb8();
    let mut net = Resnet50::new()?;
    for (class, score) in classify(&mut net, &picture)? {
        println!("class {class:3}  score {score:.5}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_gets_five_classes() {
        let picture = image::open(concat!(env!("CARGO_MANIFEST_DIR"), "/picture.png")).unwrap().to_rgb8();
        let mut net = Resnet50::new().unwrap();
        let first = classify(&mut net, &picture).unwrap();
        assert_eq!(first.len(), 5);
        assert!(first.iter().all(|(class, score)| *class < 1000 && score.is_finite()));
        assert!(first.is_sorted_by(|a, b| a.1 >= b.1));
        assert_eq!(classify(&mut net, &picture).unwrap(), first);
    }
}
