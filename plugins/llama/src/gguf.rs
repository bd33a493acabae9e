//! Whether a file is a whole GGUF file, looked at before llama.cpp sees it.
//!
//! llama.cpp ends the process on some malformed files. So the layout is read here first, and
//! [`plausible`](crate::plausible) looks at what the values mean.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use selvedge_core::{Error, ErrorKind, Result};

use crate::{digest::unreadable, layout, plausible};

/// The most metadata values and tensors: far more than any model has, so that a broken count is found at once.
const MOST_ENTRIES: u64 = 1 << 16;
/// The most elements of an array, such as the tokens of a vocabulary.
const MOST_ELEMENTS: u64 = 1 << 24;

/// What a model file says about itself.
#[derive(Debug)]
pub(crate) struct Summary {
    /// `llama`, `qwen2`, ...
    pub(crate) architecture: String,
    pub(crate) parameters: u64,
    /// The type of most of its weights: `Q4_1`.
    pub(crate) weights: &'static str,
}

impl Summary {
    /// `llama 135M Q4_1`.
    pub(crate) fn description(&self) -> String {
        let (scaled, unit) = match self.parameters {
            count if count >= 1_000_000_000 => (count as f64 / 1e9, "B"),
            count => (count as f64 / 1e6, "M"),
        };
        let digits = usize::from(scaled < 10.0);
        format!("{} {scaled:.digits$}{unit} {}", self.architecture, self.weights)
    }
}

/// A metadata value. Numbers keep their kind, as llama.cpp insists on it.
#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
    /// Numbers of the kind with this code.
    Numbers(u32, Vec<f64>),
}

/// A tensor of the file: its name, its shape and the code of its type.
pub(crate) struct Tensor {
    pub(crate) name: Vec<u8>,
    pub(crate) shape: Vec<u64>,
    pub(crate) kind: u32,
}

/// The metadata of a file.
pub(crate) struct Header {
    pub(crate) values: HashMap<Vec<u8>, Value>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Header {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key.as_bytes())
    }
}

/// Reads a file's header and checks that everything it promises is there. A `trusted` file is one whose digest is the
/// expected one: it may have an architecture whose layout is not known here.
///
/// # Errors
/// `Damaged` for what is no GGUF file or is cut off, `Unsupported` for a version or a kind of model that is not known.
pub(crate) fn check(path: &Path, trusted: bool) -> Result<Summary> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    if !metadata.is_file() {
        let error = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(unreadable(path, error));
    }
    let mut reader = Reader { file: BufReader::with_capacity(1 << 16, file), at: 0, size: metadata.len() };
    read(&mut reader, trusted).map_err(|fault| match fault {
        Fault::Io(error) => unreadable(path, error),
        Fault::Damaged(what) => Error::new(ErrorKind::Damaged, "llama.open", "the file is no whole GGUF model")
            .with("file", path.display())
            .with("reason", what)
            .advise("fetch the file again, and compare its digest"),
        Fault::Unsupported(what) => {
            Error::new(ErrorKind::Unsupported, "llama.open", "this kind of model is not supported")
                .with("file", path.display())
                .with("reason", what)
                .advise("use a decoder model in one file of GGUF version 2 or 3")
        }
        Fault::Unchecked(what) => {
            Error::new(ErrorKind::Unsupported, "llama.open", "the layout of this kind of model is not checked")
                .with("file", path.display())
                .with("kind", what)
                .with("checked", layout::known().collect::<Vec<_>>().join(", "))
                .advise("give the file's SHA-256 digest: a file that is known to be whole is opened without that check")
        }
    })
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(std::io::Error),
    Damaged(String),
    Unsupported(String),
    /// Perhaps a good model, yet llama.cpp would end the process if it is not.
    Unchecked(String),
}

pub(crate) fn damaged<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(what.into()))
}

struct Reader {
    file: BufReader<File>,
    at: u64,
    size: u64,
}

impl Reader {
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Fault> {
        if length > self.size - self.at {
            return damaged(format!("it ends at byte {}, in the middle of something", self.size));
        }
        let mut bytes = vec![0; usize::try_from(length).or_else(|_| damaged("a text is too long"))?];
        self.file.read_exact(&mut bytes).map_err(Fault::Io)?;
        self.at += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, most: u64) -> Result<u64, Fault> {
        match self.u64()? {
            count if count <= most => Ok(count),
            count => damaged(format!("it claims to have {count} {what}")),
        }
    }

    fn text(&mut self) -> Result<Vec<u8>, Fault> {
        let length = self.u64()?;
        self.bytes(length)
    }

    fn value(&mut self, kind: u32) -> Result<Value, Fault> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.elements()?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return damaged(format!("a value has the unknown type {kind}")),
        })
    }

    fn elements(&mut self) -> Result<Value, Fault> {
        let kind = self.u32()?;
        let count = self.count("elements in an array", MOST_ELEMENTS)?;
        if kind == 8 {
            return Ok(Value::Texts((0..count).map(|_| self.text()).collect::<Result<_, _>>()?));
        }
        if kind == 9 {
            return damaged("an array contains arrays");
        }
        let number = |value| match value {
            Value::Unsigned(number) => number as f64,
            Value::Signed(number) => number as f64,
            Value::Float(number) => number,
            Value::Bool(_) | Value::Text(_) | Value::Texts(_) | Value::Numbers(..) => 0.0,
        };
        Ok(Value::Numbers(kind, (0..count).map(|_| self.value(kind).map(number)).collect::<Result<_, _>>()?))
    }
}

fn read(reader: &mut Reader, trusted: bool) -> Result<Summary, Fault> {
    if reader.size < 4 || reader.array::<4>()? != *b"GGUF" {
        return damaged("it does not begin with the letters GGUF");
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(Fault::Unsupported(format!("its version is {version}")));
    }
    let tensors = reader.count("tensors", MOST_ENTRIES)?;
    let entries = reader.count("metadata values", MOST_ENTRIES)?;
    let mut header = Header { values: HashMap::new(), tensors: Vec::new() };
    let mut names = HashSet::new();
    for _ in 0..entries {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let value = reader.value(kind)?;
        if key.contains(&0) || header.values.insert(key, value).is_some() {
            return damaged("a metadata key cannot be used");
        }
    }
    let alignment = match header.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(alignment)) if alignment.is_power_of_two() && *alignment <= 1 << 20 => *alignment,
        Some(_) => return damaged("its alignment is not a power of two"),
    };
    let (mut parameters, mut bytes) = (0_u64, HashMap::<&str, u64>::new());
    let mut end = 0_u64;
    for _ in 0..tensors {
        let name = reader.text()?;
        let dimensions = reader.u32()?;
        if name.len() >= 64 || dimensions > 4 || !names.insert(name.clone()) {
            return damaged("a tensor's name or shape cannot be");
        }
        let shape = (0..dimensions).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
        let kind = reader.u32()?;
        let Some((type_name, block, block_bytes)) = tensor_type(kind) else {
            return Err(Fault::Unsupported(format!("a tensor has the unknown type {kind}")));
        };
        let elements = shape.iter().try_fold(1_u64, |product, length| product.checked_mul(*length));
        let size = elements.and_then(|elements| (elements / block).checked_mul(block_bytes));
        let (Some(elements), Some(size)) = (elements, size) else {
            return damaged("a tensor is larger than any memory");
        };
        if elements == 0 || shape.first().is_some_and(|row| row % block != 0) {
            return damaged("a tensor's shape does not fit its type");
        }
        let offset = reader.u64()?;
        let Some(tensor_end) = offset.checked_add(size) else {
            return damaged("a tensor is beyond the end of the file");
        };
        end = end.max(tensor_end);
        parameters = parameters.saturating_add(elements);
        *bytes.entry(type_name).or_default() += size;
        header.tensors.push(Tensor { name, shape, kind });
    }
    let data = reader.at.next_multiple_of(alignment);
    if data.checked_add(end).is_none_or(|end| end > reader.size) {
        return damaged(format!("it has {} bytes and needs {}", reader.size, data.saturating_add(end)));
    }
    let architecture = plausible::check(&header, trusted)?;
    let weights = bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("", |(name, _)| name);
    Ok(Summary { architecture, parameters, weights })
}

/// The types of tensors: name, elements of a block, bytes of a block.
fn tensor_type(code: u32) -> Option<(&'static str, u64, u64)> {
    Some(match code {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        9 => ("Q8_1", 32, 36),
        10 => ("Q2_K", 256, 84),
        11 => ("Q3_K", 256, 110),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        15 => ("Q8_K", 256, 292),
        16 => ("IQ2_XXS", 256, 66),
        17 => ("IQ2_XS", 256, 74),
        18 => ("IQ3_XXS", 256, 98),
        19 => ("IQ1_S", 256, 50),
        20 => ("IQ4_NL", 32, 18),
        21 => ("IQ3_S", 256, 110),
        22 => ("IQ2_S", 256, 82),
        23 => ("IQ4_XS", 256, 136),
        24 => ("I8", 1, 1),
        25 => ("I16", 1, 2),
        26 => ("I32", 1, 4),
        27 => ("I64", 1, 8),
        28 => ("F64", 1, 8),
        29 => ("IQ1_M", 256, 56),
        30 => ("BF16", 1, 2),
        34 => ("TQ1_0", 256, 54),
        35 => ("TQ2_0", 256, 66),
        39 => ("MXFP4", 32, 17),
        40 => ("NVFP4", 64, 36),
        41 => ("Q1_0", 128, 18),
        42 => ("Q2_0", 64, 18),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(unsafe_code, reason = "asks ggml itself, whose functions are foreign")]
mod tests {
    use super::*;

    #[test]
    fn the_types_are_those_of_ggml() {
        for code in 0..llama_cpp_sys_2::GGML_TYPE_COUNT {
            // SAFETY: both look a number below the count up in a constant table.
            let (block, bytes) =
                unsafe { (llama_cpp_sys_2::ggml_blck_size(code), llama_cpp_sys_2::ggml_type_size(code)) };
            let expected = (bytes > 0).then_some((block.unsigned_abs(), bytes as u64));
            assert_eq!(tensor_type(code).map(|(_, block, bytes)| (block, bytes)), expected, "type {code}");
        }
    }

    #[test]
    fn sizes_are_told_in_round_numbers() {
        let summary = |parameters| Summary { architecture: "llama".into(), parameters, weights: "Q4_1" }.description();
        assert_eq!(summary(134_515_008), "llama 135M Q4_1");
        assert_eq!(summary(1_700_000_000), "llama 1.7B Q4_1");
    }
}
