//! What `redis-gateway check` prints.

use std::fmt;

use serde_json::{Value, json};

use super::load::Row;
use super::{EndpointName, Loaded, Problem, Problems};

/// Values longer than this do not push the places of all others to the right.
const VALUE_WIDTH: usize = 40;

impl Loaded {
    /// The same, for scripts. The form is that of [`Problems::json`].
    pub fn json(&self) -> Value {
        let setting = |row: &Row| json!({"path": row.path, "value": row.value, "place": row.place.to_string()});
        let settings: Vec<Value> = self.rows.iter().map(setting).collect();
        document(&settings, &self.warnings, &[])
    }
}

impl Problems {
    /// What is wrong, for scripts. The form is that of [`Loaded::json`].
    pub fn json(&self) -> Value {
        document(&[], &[], &self.0)
    }
}

fn document(settings: &[Value], warnings: &[Problem], problems: &[Problem]) -> Value {
    let all = |problems: &[Problem]| {
        let one = |problem: &Problem| json!({"place": problem.place.to_string(), "what": problem.what});
        problems.iter().map(one).collect::<Vec<_>>()
    };
    json!({
        "valid": problems.is_empty(),
        "settings": settings,
        "warnings": all(warnings),
        "problems": all(problems),
    })
}

/// Every setting with its value and where it came from, without secrets; then the warnings.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.rows.iter().map(|row| row.path.len()).max().unwrap_or(0);
        let values = self
            .rows
            .iter()
            .map(|row| row.value.len())
            .filter(|len| *len <= VALUE_WIDTH)
            .max()
            .unwrap_or(0);
        for row in &self.rows {
            writeln!(f, "{:paths$}  {:values$}  {}", row.path, row.value, row.place)?;
        }
        let endpoints = &self.config.endpoints;
        for name in EndpointName::ALL
            .into_iter()
            .filter(|name| endpoints.get(*name).is_none())
        {
            let instead = match name {
                EndpointName::Locks if endpoints.user_events.is_some() => "locks are on user_events",
                _ => "its calls are answered NOT_CONFIGURED",
            };
            writeln!(f, "endpoints.{} is not configured: {instead}", name.as_str())?;
        }
        if let Some(embedded) = &self.config.embedded {
            let folder = embedded.data_dir.display();
            writeln!(
                f,
                "no endpoint is configured: a private Redis server will run, with its data in {folder}"
            )?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        match self.warnings.len() {
            0 => writeln!(f, "the configuration is valid"),
            1 => writeln!(f, "the configuration is valid, with 1 warning"),
            n => writeln!(f, "the configuration is valid, with {n} warnings"),
        }
    }
}
