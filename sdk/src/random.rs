//! The seeded generator: counter-based, the same on every machine and in any order.
//!
//! Owns the mixing of seeds and names into numbers. Draws are functions of (key, index), so that
//! adding a parameter changes no other, and threads do not matter.

/// A step of SplitMix64 (Steele, Lea and Flood, 2014) over `key` and `index`.
pub fn mix(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a over the bytes of a name.
pub fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The key of a name under a seed.
pub fn key(seed: u64, name: &str) -> u64 {
    mix(seed, hash(name))
}

/// Number `index` of stream `key`, uniform in [0, 1), with 53 random bits.
pub fn uniform(key: u64, index: u64) -> f64 {
    (mix(key, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// Number `index` of stream `key`, standard normal (Box-Muller).
pub fn normal(key: u64, index: u64) -> f64 {
    let u = 1.0 - uniform(key, 2 * index);
    let angle = std::f64::consts::TAU * uniform(key, 2 * index + 1);
    (-2.0 * u.ln()).sqrt() * angle.cos()
}

/// A permutation of `0..n` (Fisher-Yates).
pub fn permutation(key: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = (uniform(key, i as u64) * (i + 1) as f64) as usize;
        order.swap(i, j.min(i));
    }
    order
}
