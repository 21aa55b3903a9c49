//! A decoder over bytes that writes short tales, one byte behind the other, and the choice of the next byte.

// What the model hands out as `present_*` it takes as `past_*` in the next run. The clause keeps these pairs inside of the instance: a run takes
// the new bytes alone, and its keys and values are written behind those that are there.
kiln::model! {
    pub struct Tales = "tales.onnx";
    dims  { batch = 1, rows in 1..=256 }
    state { "past_*" -> "present_*", capacity = 256 }
}

/// Chooses bytes by their scores: the same for the same seed.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    state: u64,
}

impl Sampler {
    /// Temperature 0 takes the byte of the highest score; 1 takes bytes as often as the model has it; above, rare ones come more often.
    pub fn new(temperature: f32, seed: u64) -> Sampler {
        Sampler { temperature, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }
    /// A number from 0 up to 1.
    fn uniform(&mut self) -> f32 {
        // Marsaglia's xorshift; the upper bits are the better ones.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 40) as f32 / (1u64 << 24) as f32
    }
    /// The next byte, given a score for each.
    pub fn pick(&mut self, scores: &[f32]) -> u8 {
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
        if self.temperature <= 0.0 {
            return best as u8;
        }
        let weights: Vec<f32> = scores.iter().map(|s| ((s - scores[best]) / self.temperature).exp()).collect();
        let mut at = self.uniform() * weights.iter().sum::<f32>();
        for (i, w) in weights.iter().enumerate() {
            at -= w;
            if at < 0.0 {
                return i as u8;
            }
        }
        best as u8
    }
}

/// Goes on behind a prompt of ASCII until a tale ends, `most` bytes are written or the state is full; `each` gets every byte as it comes.
/// Gives the number of bytes.
///
/// # Errors
/// A prompt that is empty, or longer than the model remembers.
pub fn write(net: &mut Tales, prompt: &str, sampler: &mut Sampler, most: usize, mut each: impl FnMut(u8)) -> kiln::Result<usize> {
    net.state_mut().clear();
    let mut new: Vec<i64> = prompt.bytes().map(i64::from).collect();
    let mut count = 0;
    while count < most && net.state().len() + new.len() <= net.state().capacity() {
        let out = net.run(&new)?;
        let [_, rows, bytes] = out.logits.shape();
        let next = sampler.pick(&out.logits[(rows - 1) * bytes..]);
        each(next);
        count += 1;
        if next == b'\n' {
            break;
        }
        new = vec![i64::from(next)];
    }
    Ok(count)
}
