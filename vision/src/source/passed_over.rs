//! What an ingest left aside: counted by reason, with a few names and with what a person can do about it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most names of one reason.
pub const MAX_EXAMPLES: usize = 5;

/// Why a file was left aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Its name does not end as an image's does.
    Ending,
    /// It is of no class of the configuration, or lies in no class folder.
    NoClass,
    /// This user may not read it.
    Permission,
    /// A folder that this user may not look into.
    ClosedFolder,
    /// It cannot be read as an image.
    Unusable,
    /// It lies under two classes at once.
    Conflict,
}

/// Files of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// How many there are.
    pub count: u64,
    /// Names of the first [`MAX_EXAMPLES`].
    pub examples: Vec<String>,
}

/// Files that were left aside, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PassedOver(BTreeMap<Reason, Named>);

impl Reason {
    /// What is wrong with so many files, after their number.
    fn what(self, count: u64) -> &'static str {
        match (self, count) {
            (Self::Ending, 1) => "file was passed over for its ending",
            (Self::Ending, _) => "files were passed over for their endings",
            (Self::NoClass, 1) => "image is of no class of the configuration",
            (Self::NoClass, _) => "images are of no class of the configuration",
            (Self::Permission, 1) => "file may not be read by this user",
            (Self::Permission, _) => "files may not be read by this user",
            (Self::ClosedFolder, 1) => "folder may not be listed by this user",
            (Self::ClosedFolder, _) => "folders may not be listed by this user",
            (Self::Unusable, 1) => "file is no usable image",
            (Self::Unusable, _) => "files are no usable images",
            (Self::Conflict, 1) => "image lies under two classes",
            (Self::Conflict, _) => "images lie under two classes",
        }
    }

    /// What a person can do about it.
    pub fn cure(self) -> &'static str {
        match self {
            Self::Ending => "images end in .png, .jpg or .jpeg",
            Self::NoClass => {
                "put each image into a folder of its class, or add the class to `classes` on the whole fleet"
            }
            Self::Permission => "let the user that runs edge-client read them, for example with `chmod a+r`",
            Self::ClosedFolder => "let the user that runs edge-client list them, for example with `chmod a+rx`",
            Self::Unusable => "replace them by whole PNG or JPEG files, or remove them",
            Self::Conflict => "remove the wrong copy; what is stored keeps its class until then, what is new stays out",
        }
    }

    /// Whether a person must look at it: what is no image by its name may lie there for a good reason.
    pub fn is_trouble(self) -> bool {
        match self {
            Self::Ending => false,
            Self::NoClass | Self::Permission | Self::ClosedFolder | Self::Unusable | Self::Conflict => true,
        }
    }
}

impl PassedOver {
    /// Counts one file.
    pub fn note(&mut self, reason: Reason, name: &str) {
        self.note_many(reason, name, 1);
    }

    /// Counts files under one name, such as their folder's.
    pub fn note_many(&mut self, reason: Reason, name: &str, count: u64) {
        if count == 0 {
            return;
        }
        let named = self.0.entry(reason).or_default();
        named.count += count;
        if named.examples.len() < MAX_EXAMPLES {
            named.examples.push(name.to_owned());
        }
    }

    /// Counts what another one counted, too.
    pub fn add(&mut self, other: &Self) {
        for (&reason, of_other) in &other.0 {
            let named = self.0.entry(reason).or_default();
            named.count += of_other.count;
            let room = MAX_EXAMPLES.saturating_sub(named.examples.len());
            named.examples.extend(of_other.examples.iter().take(room).cloned());
        }
    }

    /// Files of one reason.
    pub fn of(&self, reason: Reason) -> Option<&Named> {
        self.0.get(&reason)
    }

    /// Every reason that there is, with its files.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, &Named)> {
        self.0.iter().map(|(&reason, named)| (reason, named))
    }

    /// Whether nothing was left aside.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A sentence for each reason, with the number, names and the cure.
    pub fn sentences(&self) -> impl Iterator<Item = (Reason, String)> {
        self.iter().map(|(reason, named)| (reason, named.sentence(reason)))
    }
}

impl Named {
    /// How many files, what is wrong with them, their names and the cure.
    pub fn sentence(&self, reason: Reason) -> String {
        format!("{} {} ({}); {}", self.count, reason.what(self.count), self.names(), reason.cure())
    }

    /// The names, and whether there are more.
    pub fn names(&self) -> String {
        let more = if self.count > self.examples.len() as u64 { ", .." } else { "" };
        format!("{}{more}", self.examples.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_a_few_are_named() {
        let mut passed = PassedOver::default();
        for number in 0..8 {
            passed.note(Reason::Permission, &format!("{number}.png"));
        }
        passed.note(Reason::Ending, "a.txt");
        let sentences: Vec<String> = passed.sentences().map(|(_, sentence)| sentence).collect();
        assert_eq!(
            sentences,
            [
                "1 file was passed over for its ending (a.txt); images end in .png, .jpg or .jpeg",
                "8 files may not be read by this user (0.png, 1.png, 2.png, 3.png, 4.png, ..); let the user that runs \
                 edge-client read them, for example with `chmod a+r`",
            ]
        );
        let json = serde_json::to_string(&passed).unwrap();
        assert_eq!(serde_json::from_str::<PassedOver>(&json).unwrap(), passed);
        let mut twice = passed.clone();
        twice.add(&passed);
        assert_eq!(twice.of(Reason::Permission).map(|named| (named.count, named.examples.len())), Some((16, 5)));
    }
}
