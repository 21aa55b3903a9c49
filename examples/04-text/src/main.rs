//! Writes a tale behind a prompt: `tales [PROMPT] [TEMPERATURE] [SEED]`.

use std::error::Error;
use std::io::Write as _;
use std::time::Instant;
use tales::{Sampler, Tales, write};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let prompt = args.next().unwrap_or("Once upon a time".into());
    let temperature = args.next().map_or(Ok(0.7), |t| t.parse())?;
    let seed = args.next().map_or(Ok(1), |s| s.parse())?;
    if !prompt.is_ascii() {
        return Err("the model knows ASCII alone".into());
    }
    let mut net = Tales::new()?;
    net.warm_up()?;
    print!("{prompt}");
    let mut out = std::io::stdout().lock();
    let start = Instant::now();
    let each = |byte: u8| {
        // A reader that went away is no reason to stop.
        let _ = out.write_all(&[byte]).and_then(|()| out.flush());
    };
    let count = write(&mut net, &prompt, &mut Sampler::new(temperature, seed), usize::MAX, each)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("\n{count} bytes behind {} in {:.1} ms: {:.0} a second", prompt.len(), seconds * 1e3, count as f64 / seconds);
    Ok(())
}
