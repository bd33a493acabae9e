//! What is known of a user.

use serde_json::Value;

/// Attributes by name: what targeting may look at, and by what users are told apart.
///
/// There are few of them and they are looked up again and again, so each name is kept with its hash and the hashes lie together.
///
/// ```
/// use selvedge_core::experiment::Attributes;
/// use serde_json::json;
///
/// let ada: Attributes = [("id".to_owned(), json!("ada")), ("country".to_owned(), json!("DE"))].into_iter().collect();
/// assert_eq!(ada.get("country"), Some(&json!("DE")));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    hashes: Vec<u32>,
    entries: Vec<(Box<str>, Value)>,
}

/// A name with its hash, so that others are told apart at once.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "Box<str>", into = "String")]
pub(super) struct Name {
    hash: u32,
    pub(super) text: Box<str>,
}

impl Name {
    pub(super) fn new(text: &str) -> Self {
        Self::from(Box::from(text))
    }
}

impl Default for Name {
    fn default() -> Self {
        Self::new("")
    }
}

impl From<Box<str>> for Name {
    fn from(text: Box<str>) -> Self {
        Self { hash: hash(&text), text }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.text.into()
    }
}

/// FNV-1a, over bytes.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Attributes {
    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.position(hash(name), name).map(|at| &self.entries[at].1)
    }

    pub(super) fn find(&self, name: &Name) -> Option<&Value> {
        self.position(name.hash, &name.text).map(|at| &self.entries[at].1)
    }

    /// Puts a value under a name, in place of what was there.
    pub fn insert(&mut self, name: impl Into<Box<str>>, value: Value) {
        let name = name.into();
        let hash = hash(&name);
        match self.position(hash, &name) {
            Some(at) => self.entries[at].1 = value,
            None => {
                self.hashes.push(hash);
                self.entries.push((name, value));
            }
        }
    }

    /// Takes the value under a name away.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.position(hash(name), name)?;
        self.hashes.swap_remove(at);
        Some(self.entries.swap_remove(at).1)
    }

    /// All names and values, in no order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(name, value)| (&**name, value))
    }

    fn position(&self, hash: u32, name: &str) -> Option<usize> {
        let mut from = 0;
        loop {
            let at = from + self.hashes[from..].iter().position(|one| *one == hash)?;
            if *self.entries[at].0 == *name {
                return Some(at);
            }
            from = at + 1;
        }
    }
}

impl FromIterator<(String, Value)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(attributes: I) -> Self {
        let mut all = Self::default();
        for (name, value) in attributes {
            all.insert(name, value);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_one_hash_are_told_apart() {
        // A well-known pair of names that FNV-1a in 32 bits cannot tell apart.
        assert_eq!(hash("costarring"), hash("liquid"));
        let mut all: Attributes =
            [("costarring".to_owned(), json!(1)), ("liquid".to_owned(), json!(2))].into_iter().collect();
        assert_eq!((all.get("costarring"), all.find(&Name::new("liquid"))), (Some(&json!(1)), Some(&json!(2))));
        all.insert("liquid", json!(3));
        assert_eq!(all.remove("costarring"), Some(json!(1)));
        assert_eq!(all.iter().collect::<Vec<_>>(), [("liquid", &json!(3))]);
        assert_eq!(all.get("costarring"), None);
    }
}
