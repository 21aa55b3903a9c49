//! The generator of random operators: the Mersenne Twister MT19937, seeded and read as NumPy's `RandomState` has it.

use core::sync::atomic::{AtomicU64, Ordering};
use std::hash::{BuildHasher, RandomState};

const N: usize = 624;

/// A generator in some state.
pub(super) struct Twister {
    state: [u32; N],
    at: usize,
    /// The second of a pair of normal numbers, which are made two at a time.
    normal: Option<f64>,
}

impl Twister {
    /// Seeded by one word, as `numpy.random.RandomState(seed)`.
    pub(super) fn new(seed: u32) -> Twister {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1812433253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Twister { state, at: N, normal: None }
    }
    /// Seeded by several words: `init_by_array` of the generator's authors.
    fn from_words(key: &[u32]) -> Twister {
        let mut t = Twister::new(19650218);
        let s = &mut t.state;
        let (mut i, mut j) = (1, 0);
        let step = |s: &mut [u32; N], i: &mut usize, factor: u32, add: &dyn Fn(usize) -> u32| {
            let last = s[*i - 1];
            s[*i] = (s[*i] ^ (last ^ (last >> 30)).wrapping_mul(factor)).wrapping_add(add(*i));
            *i += 1;
            if *i == N {
                s[0] = s[N - 1];
                *i = 1;
            }
        };
        for _ in 0..N.max(key.len()) {
            step(s, &mut i, 1664525, &|_| key[j].wrapping_add(j as u32));
            j = (j + 1) % key.len();
        }
        for _ in 0..N - 1 {
            step(s, &mut i, 1566083941, &|i| (i as u32).wrapping_neg());
        }
        s[0] = 0x8000_0000;
        t
    }
    /// One that no other call makes: seeded by what the operating system has of chance, and by how many were made before.
    pub(super) fn fresh() -> Twister {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        // The keys of a hasher come from the system's source of chance.
        let (a, b) = (RandomState::new().hash_one(made), RandomState::new().hash_one(!made));
        Twister::from_words(&[a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32, made as u32, (made >> 32) as u32])
    }
    /// The generator of a node: seeded by its attribute, or fresh.
    pub(super) fn of(seed: Option<i64>) -> Twister {
        match seed.map(|s| (s, u32::try_from(s))) {
            None => Twister::fresh(),
            Some((_, Ok(word))) => Twister::new(word),
            Some((s, Err(_))) => Twister::from_words(&[s as u32, (s >> 32) as u32]),
        }
    }
    fn next(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                self.state[i] = self.state[(i + 397) % N] ^ (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
    /// A number in [0, 1) of 53 random bits: `RandomState.random_sample`.
    pub(super) fn uniform(&mut self) -> f64 {
        let (a, b) = ((self.next() >> 5) as f64, (self.next() >> 6) as f64);
        (a * 67108864.0 + b) / 9007199254740992.0
    }
    /// A number of the standard normal distribution, by the polar method: `RandomState.randn`.
    pub(super) fn normal(&mut self) -> f64 {
        if let Some(second) = self.normal.take() {
            return second;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let r = x * x + y * y;
            if r < 1.0 && r != 0.0 {
                let f = (-2.0 * r.ln() / r).sqrt();
                self.normal = Some(f * x);
                return f * y;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Twister;

    #[test]
    fn numbers_are_numpys() {
        // numpy.random.RandomState(0).uniform(size=2)
        let mut random = Twister::new(0);
        assert_eq!([random.uniform(), random.uniform()], [0.5488135039273248, 0.7151893663724195]);
        // numpy.random.RandomState(0).randn(3)
        let mut random = Twister::new(0);
        let found = [random.normal(), random.normal(), random.normal()];
        let expected = [1.764052345967664, 0.4001572083672233, 0.9787379841057392];
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-14, "{f}, expected {e}");
        }
        // numpy.random.RandomState([1, 2]).uniform(size=2)
        let mut random = Twister::from_words(&[1, 2]);
        assert_eq!([random.uniform(), random.uniform()], [0.5845141492495678, 0.2585320132663258]);
    }

    #[test]
    fn fresh_generators_differ() {
        let firsts: Vec<u64> = (0..100).map(|_| Twister::fresh().uniform().to_bits()).collect();
        let mut sorted = firsts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), firsts.len());
    }
}
