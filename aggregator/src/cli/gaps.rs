//! What a head cannot tell, because nobody taught it.

use grapevine_models::Head;
use serde::Serialize;

/// What a head lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Gaps {
    /// Whether it learned nothing at all.
    pub(super) is_blank: bool,
    /// The classes that it never learned.
    pub(super) never_learned: Vec<String>,
    /// Samples that a device must hold of a class before it shares anything of it.
    pub(super) min_samples_to_share: u64,
}

impl Gaps {
    pub(super) fn of(head: &Head, classes: &[String], min_samples_to_share: u64) -> Self {
        let is_blank = head.is_blank();
        let lacking = classes.iter().enumerate().filter(|(class, _)| !is_blank && head.is_unlearned(*class));
        Self { is_blank, never_learned: lacking.map(|(_, name)| name.clone()).collect(), min_samples_to_share }
    }

    /// In a sentence, with the cure; `None` where nothing is lacking.
    pub(super) fn sentence(&self) -> Option<String> {
        let least = self.min_samples_to_share;
        let (subject, of) = match (self.is_blank, self.never_learned.as_slice()) {
            (true, _) => ("nothing was learned yet".to_owned(), "any class"),
            (false, []) => return None,
            (false, [class]) => (format!("the class {class} was never learned"), "it"),
            (false, classes) => (format!("the classes {} were never learned", classes.join(", ")), "any of them"),
        };
        Some(format!(
            "{subject}: no device holds {least} samples of {of}, as `min_samples_to_share` demands; collect more, or begin a \
             new run with a smaller number"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_nobody_shares_is_named_with_the_cure() {
        let classes = ["cat", "dog"].map(String::from);
        let head = |weight: [f32; 4], bias: [f32; 2]| Head { weight: weight.into(), bias: bias.into() };
        let of = |head: &Head| Gaps::of(head, &classes, 5).sentence();
        assert_eq!(of(&head([1.0, 0.0, 0.0, 2.0], [0.0, -1.0])), None);
        let sentence = of(&head([1.0, 0.0, 0.0, 0.0], [0.0, -3_500.0])).unwrap();
        assert!(sentence.starts_with("the class dog was never learned: no device holds 5 samples"), "{sentence}");
        assert!(of(&head([0.0; 4], [0.0; 2])).unwrap().starts_with("nothing was learned yet"));
    }
}
