//! Zip archives as torch writes them, of any content.

/// An archive of entries that are stored.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, bytes) in entries {
        let header = (file.len() as u32).to_le_bytes();
        let size = (bytes.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        file.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        file.extend([size, size].concat());
        file.extend(length);
        file.extend(b"\0\0");
        file.extend(name.bytes());
        file.extend(*bytes);
        directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([size, size].concat());
        directory.extend(length);
        directory.extend([0; 12]);
        directory.extend(header);
        directory.extend(name.bytes());
    }
    let (count, start) = (entries.len() as u16, file.len() as u32);
    let size = directory.len() as u32;
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].map(u16::to_le_bytes).concat());
    file.extend([size, start].map(u32::to_le_bytes).concat());
    file.extend(b"\0\0");
    file
}

/// The content of the entry of an archive whose name ends with `end`.
pub fn entry(file: &[u8], end: &str) -> Option<Vec<u8>> {
    let directory = find(file, b"PK\x01\x02", 0)?;
    let mut at = directory;
    while let Some(fixed) = file
        .get(at..at + 46)
        .filter(|f| f.starts_with(b"PK\x01\x02"))
    {
        let number = |i: usize| usize::from(u16::from_le_bytes([fixed[i], fixed[i + 1]]));
        let wide = |i: usize| number(i) | number(i + 2) << 16;
        let name = &file[at + 46..][..number(28)];
        if name.ends_with(end.as_bytes()) {
            let header = wide(42);
            let length = |i: usize| {
                usize::from(u16::from_le_bytes([file[header + i], file[header + i + 1]]))
            };
            let start = header + 30 + length(26) + length(28);
            return Some(file[start..start + wide(20)].to_vec());
        }
        at += 46 + number(28) + number(30) + number(32);
    }
    None
}

fn find(file: &[u8], part: &[u8], from: usize) -> Option<usize> {
    let windows = file[from..].windows(part.len());
    windows
        .into_iter()
        .position(|window| window == part)
        .map(|at| from + at)
}
