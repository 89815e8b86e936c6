//! A configuration, filled in by names.
//!
//! A template is a valid file with example values. A line that is filled in ends with ` # @NAME`. Consecutive lines
//! with one name are a list: the first is the pattern, and the others are examples.

use std::fs;

use anyhow::{Result, bail, ensure};

use crate::failure::{Failure, Outcome};

/// What comes into the lines with a name: the example that it replaces, and the values, one a line.
pub struct Field {
    /// The name, without `@`.
    pub name: &'static str,
    /// What is replaced in the line.
    pub example: &'static str,
    /// The values.
    pub values: Vec<String>,
}

/// A field with one value.
pub fn field(name: &'static str, example: &'static str, value: impl ToString) -> Field {
    list(name, example, vec![value.to_string()])
}

/// A field with several values.
pub fn list(name: &'static str, example: &'static str, values: Vec<String>) -> Field {
    Field { name, example, values }
}

/// Fills the template in this file in.
pub fn fill_file(path: &str, fields: &[Field]) -> Outcome<String> {
    let template = fs::read_to_string(path).map_err(|error| Failure::of(format!("cannot read {path}: {error}")))?;
    fill(&template, fields).map_err(|error| Failure::of(format!("{path}: {error}")))
}

/// Fills the template in.
///
/// # Errors
/// A line has a name that no field has, or not the field's example; or no line has a field's name.
pub fn fill(template: &str, fields: &[Field]) -> Result<String> {
    let mut text = String::new();
    let mut used = Vec::new();
    let mut last = None;
    for line in template.lines() {
        let (line, name) = match line.rsplit_once(" # @") {
            Some((line, name)) => (line, Some(name)),
            None => (line, None),
        };
        match name {
            None => text += &format!("{line}\n"),
            // Another example of the same list.
            Some(_) if name == last => {}
            Some(name) => {
                let Some(field) = fields.iter().find(|field| field.name == name) else {
                    bail!("the template has @{name}, and nothing is known by this name");
                };
                text += &lines_of(line, field)?;
                used.push(name);
            }
        }
        last = name;
    }
    let missing = fields.iter().find(|field| !used.contains(&field.name));
    ensure!(
        missing.is_none(),
        "the template has no line with @{}",
        missing.map_or("", |field| field.name)
    );
    Ok(text)
}

fn lines_of(pattern: &str, field: &Field) -> Result<String> {
    let examples = pattern.matches(field.example).count();
    ensure!(
        examples == 1,
        "the template's line for @{} has {:?} {examples} times",
        field.name,
        field.example
    );
    let lines = field
        .values
        .iter()
        .map(|value| pattern.replace(field.example, value) + "\n");
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "global\n  bind :81 # @bind\n  # why\n  server a # @server\n  server b # @server\n";

    #[test]
    fn values_replace_examples_and_a_list_has_a_line_for_each() {
        let servers = vec!["one".to_string(), "two".to_string(), "three".to_string()];
        let fields = [field("bind", ":81", ":82"), list("server", "a", servers)];
        let text = fill(TEMPLATE, &fields).unwrap();
        assert_eq!(
            text,
            "global\n  bind :82\n  # why\n  server one\n  server two\n  server three\n"
        );
    }

    #[test]
    fn what_is_unknown_missing_or_not_there_is_an_error() {
        let said = |fields: &[Field]| fill(TEMPLATE, fields).unwrap_err().to_string();
        assert!(said(&[]).contains("has @bind"));
        assert!(said(&[field("bind", ":80", ":82")]).contains("0 times"));
        let all = [field("bind", ":81", 1), field("server", "a", 2), field("more", "a", 3)];
        assert!(said(&all).contains("no line with @more"));
    }
}
