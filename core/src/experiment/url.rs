//! Addresses: where an experiment runs, what a query forces, where a variation leads.

use regex_lite::Regex;

/// An address that an experiment runs at, or does not run at.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct UrlPattern {
    /// How the pattern reads.
    #[serde(rename = "type", default)]
    pub kind: PatternKind,
    /// Whether it says where the experiment runs; else it says where not.
    #[serde(default = "yes")]
    pub include: bool,
    /// The pattern.
    pub pattern: Pattern,
}

fn yes() -> bool {
    true
}

/// How a pattern reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatternKind {
    /// An address where `*` stands for anything. Host and path have to be the same, the query has to have what the pattern's
    /// has, and upper and lower case are one.
    #[default]
    Simple,
    /// A regular expression, for the whole address or all after its host.
    Regex,
}

/// A pattern's text, and the regular expression if it is one.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(from = "String")]
pub struct Pattern {
    text: String,
    regex: Option<Regex>,
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self { regex: Regex::new(&text).ok(), text }
    }
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl UrlPattern {
    fn matches(&self, url: &str) -> bool {
        match self.kind {
            PatternKind::Simple => simple(url, &self.pattern.text),
            PatternKind::Regex => self.pattern.regex.as_ref().is_some_and(|regex| {
                let after_host = Parts::of(url).map_or("", |parts| parts.after_host);
                regex.is_match(url) || regex.is_match(after_host)
            }),
        }
    }
}

/// Whether an experiment runs at an address: no pattern excludes it, and one includes it, if there are such.
pub fn targets(patterns: &[UrlPattern], url: &str) -> bool {
    let (mut included, mut includes) = (false, false);
    for pattern in patterns {
        let matches = pattern.matches(url);
        if !pattern.include && matches {
            return false;
        }
        includes |= pattern.include;
        included |= pattern.include && matches;
    }
    !patterns.is_empty() && (included || !includes)
}

/// An address, taken apart.
struct Parts<'a> {
    host: &'a str,
    path: &'a str,
    query: &'a str,
    hash: &'a str,
    after_host: &'a str,
}

impl<'a> Parts<'a> {
    /// `None` for an address without a scheme.
    fn of(url: &'a str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, after_host) = rest.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (before_hash, hash) = after_host.split_once('#').unwrap_or((after_host, ""));
        let (path, query) = before_hash.split_once('?').unwrap_or((before_hash, ""));
        Some(Self { host, path, query, hash, after_host })
    }
}

/// The pairs of a query.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn simple(url: &str, pattern: &str) -> bool {
    let Some(actual) = Parts::of(url) else { return false };
    // A pattern may leave out the scheme, and the host with it when it begins with its path.
    let leading_host = pattern.split([':', '/', '?', '#']).next().is_some_and(|first| first.contains('.'));
    let completed;
    let expected = if pattern.contains("://") {
        pattern
    } else if leading_host {
        completed = format!("https://{pattern}");
        &completed
    } else {
        completed = format!("https://*/{}", pattern.strip_prefix('/').unwrap_or(pattern));
        &completed
    };
    let Some(expected) = Parts::of(expected) else { return false };
    let trim = |path: &'_ str| path.trim_matches('/').to_owned();
    glob(actual.host, expected.host)
        && glob(&trim(actual.path), &trim(expected.path))
        && (expected.hash.is_empty() || glob(actual.hash, expected.hash))
        && pairs(expected.query).all(|(name, value)| {
            let found = pairs(actual.query).find(|(other, _)| *other == name).map_or("", |(_, value)| value);
            glob(found, value)
        })
}

/// Whether a text is the pattern, where `*` is anything and case counts for nothing.
fn glob(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.to_lowercase(), pattern.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The variation that an address forces by naming the experiment in its query: `?my-test=1`.
///
/// ```
/// use selvedge_core::experiment::url::forced_variation;
///
/// assert_eq!(forced_variation("my-test", "https://shop.example/?my-test=1#top", 2), Some(1));
/// assert_eq!(forced_variation("my-test", "https://shop.example/?my-test=2", 2), None);
/// ```
pub fn forced_variation(experiment: &str, url: &str, variations: usize) -> Option<usize> {
    let (_, query) = url.split('#').next()?.split_once('?')?;
    let (_, value) = pairs(query).find(|(name, _)| *name == experiment)?;
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|variation| digits && *variation < variations)
}

/// An address with what the query of another has besides.
///
/// ```
/// use selvedge_core::experiment::url::with_query_of;
///
/// let target = with_query_of("https://shop.example/new?color=red", "https://shop.example/?color=blue&food=sushi");
/// assert_eq!(target, "https://shop.example/new?color=red&food=sushi");
/// ```
pub fn with_query_of(target: &str, current: &str) -> String {
    let query = |url| Parts::of(url).map_or("", |parts| parts.query);
    let (before_hash, hash) = target.split_once('#').map_or((target, None), |(before, hash)| (before, Some(hash)));
    let mut merged = before_hash.to_owned();
    for (name, value) in pairs(query(current)) {
        if !pairs(query(target)).any(|(other, _)| other == name) {
            merged.push(if merged.contains('?') { '&' } else { '?' });
            merged.push_str(name);
            merged.push('=');
            merged.push_str(value);
        }
    }
    if let Some(hash) = hash {
        merged.push('#');
        merged.push_str(hash);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(kind: PatternKind, include: bool, pattern: &str) -> UrlPattern {
        UrlPattern { kind, include, pattern: Pattern::from(pattern.to_owned()) }
    }

    #[test]
    fn simple_patterns() {
        let url = "https://shop.example/Paywall/offer/?plan=pro&from=mail#top";
        for (text, matches) in [
            ("https://shop.example/paywall/offer", true),
            ("http://shop.example/paywall/offer/", true),
            ("shop.example/paywall/*", true),
            ("/paywall/offer", true),
            ("/paywall/*er", true),
            ("*.example/*", true),
            ("/paywall/offer?plan=pro", true),
            ("/paywall/offer?plan=p*&from=mail", true),
            ("/paywall/offer#top", true),
            ("/paywall/offer?plan=free", false),
            ("/paywall/offer#bottom", false),
            ("/paywall", false),
            ("/", false),
            ("other.example/paywall/offer", false),
        ] {
            assert_eq!(pattern(PatternKind::Simple, true, text).matches(url), matches, "{text}");
        }
    }

    #[test]
    fn an_exclusion_wins() {
        let (include, exclude) = (
            pattern(PatternKind::Simple, true, "/paywall/*"),
            pattern(PatternKind::Regex, false, "^/paywall/(old|older)$"),
        );
        let both = [include.clone(), exclude.clone()];
        assert!(targets(&both, "https://shop.example/paywall/new"));
        assert!(!targets(&both, "https://shop.example/paywall/old"));
        assert!(!targets(&both, "https://shop.example/cart"));
        assert!(targets(&[exclude], "https://shop.example/cart"));
        assert!(!targets(&[], "https://shop.example/cart"));
        assert!(!targets(&[include], "no address"));
        assert!(!targets(&[pattern(PatternKind::Regex, true, "(")], "https://shop.example/("));
    }
}
