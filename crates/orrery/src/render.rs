//! Texts made of the option tables: `--help-all`, the file of `--generate-config`, and the pages of
//! docs/reference. Nothing about options is written down twice.

use std::fmt::Write as _;

use orrery_core::config::{Catalog, ClassSpec, Kind, OptionSpec, Status};

use crate::registry;

/// Every option of every class, for `--help-all`.
pub(crate) fn help_all(catalog: &Catalog) -> String {
    let mut text = String::from("Class options (set as --Class.option=value):\n");
    for class in catalog.classes() {
        add(
            &mut text,
            &format!(
                "\n{}\n{}\n",
                heading(class),
                indented("  ", &flowing(class.doc))
            ),
        );
        for spec in class.options {
            add(
                &mut text,
                &format!(
                    "\n  --{}.{}=<{}>\n",
                    class.name,
                    spec.name,
                    spec.kind_name()
                ),
            );
            add(&mut text, &indented("      ", &flowing(spec.doc)));
            for note in notes(spec) {
                add(&mut text, &format!("      {note}\n"));
            }
            add(&mut text, &format!("      Default: {}\n", default_of(spec)));
        }
    }
    text
}

/// A `jupyterhub_config.py` with every option as a comment.
pub(crate) fn config_file(catalog: &Catalog) -> String {
    let mut text = String::from(
        "# Configuration of the hub. Remove the # before an option to set it.\n\nc = get_config()  # noqa\n",
    );
    for class in catalog.classes() {
        let line = "-".repeat(78);
        add(
            &mut text,
            &format!("\n# {line}\n# {}\n# {line}\n", heading(class)),
        );
        add(&mut text, &indented("# ", &flowing(class.doc)));
        for spec in class.options {
            add(&mut text, "\n");
            add(&mut text, &indented("# ", &flowing(spec.doc)));
            for note in notes(spec) {
                add(&mut text, &format!("# {note}\n"));
            }
            let default = default_of(spec);
            add(
                &mut text,
                &format!(
                    "# Default: {default}\n# c.{}.{} = {default}\n",
                    class.name, spec.name
                ),
            );
        }
    }
    text
}

/// docs/reference/options.md.
pub(crate) fn options_page(catalog: &Catalog) -> String {
    let mut text = String::from(
        "# Options\n\n<!-- Written by `orrery docs --write` from the option structs; do not edit. -->\n\n\
         Set an option in `jupyterhub_config.py` as `c.Class.option = value`, in TOML as `option = value` under \
         `[Class]`, or on the command line as `--Class.option=value`. A section holds for its class and for every class \
         that is based on it; the section of the class itself is stronger.\n",
    );
    for class in catalog.classes() {
        add(
            &mut text,
            &format!("\n## {}\n\n{}\n", class.name, flowing(class.doc)),
        );
        let names = registry::short_names(class);
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            add(
                &mut text,
                &format!(
                    "\nIts names are {} and `{}`.\n",
                    names.join(", "),
                    class.path()
                ),
            );
        }
        if !class.bases.is_empty() {
            let bases: Vec<_> = class
                .bases
                .iter()
                .map(|base| format!("[{base}](#{})", base.to_lowercase()))
                .collect();
            add(
                &mut text,
                &format!("\nIt has the options of {} too.\n", bases.join(", ")),
            );
        }
        for (option, value) in class.defaults {
            add(
                &mut text,
                &format!(
                    "\nHere `{option}` is `{}` by default.\n",
                    value().to_python()
                ),
            );
        }
        for spec in class.options {
            add(
                &mut text,
                &format!(
                    "\n### `{}.{}`\n\n{}\n\n",
                    class.name,
                    spec.name,
                    flowing(spec.doc)
                ),
            );
            add(
                &mut text,
                &format!(
                    "- Type: {}\n- Default: `{}`\n",
                    spec.kind_name(),
                    default_of(spec)
                ),
            );
            for note in notes(spec) {
                add(&mut text, &format!("- {note}\n"));
            }
        }
    }
    text
}

/// docs/reference/not-supported-yet.md.
pub(crate) fn not_supported_page(catalog: &Catalog) -> String {
    let mut text = String::from(
        "# Not supported yet\n\n<!-- Written by `orrery docs --write` from the option structs; do not edit. -->\n\n\
         A configuration that uses one of these is refused at start with a sentence that names it. Setting an option to \
         its default is always fine. Python functions as values are not supported yet either.\n\n## Classes\n\n",
    );
    for class in registry::not_yet() {
        add(&mut text, &format!("- `{}`\n", class.path()));
    }
    add(&mut text, "\n## Options\n\n");
    for class in catalog.classes() {
        for spec in class
            .options
            .iter()
            .filter(|spec| spec.status == Status::NotYet)
        {
            add(&mut text, &format!("- `{}.{}`\n", class.name, spec.name));
        }
    }
    add(&mut text, "\n## Functions as values\n\n");
    for class in catalog.classes() {
        for spec in class
            .options
            .iter()
            .filter(|spec| spec.callable && spec.status != Status::NotYet)
        {
            add(
                &mut text,
                &format!("- `{}.{}`: other values work\n", class.name, spec.name),
            );
        }
    }
    text
}

fn heading(class: &ClassSpec) -> String {
    match class.bases {
        [] => class.name.to_owned(),
        bases => format!("{}({})", class.name, bases.join(", ")),
    }
}

/// What is to be said of an option beyond its doc and default.
fn notes(spec: &OptionSpec) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(choices) = choices(&spec.kind) {
        notes.push(format!("Choices: {}", choices.join(", ")));
    }
    if let Some(instead) = spec.moved_to {
        notes.push(format!("Deprecated: use {instead}"));
    } else if let Some(instead) = spec.deprecated {
        notes.push(format!("Deprecated: {instead}"));
    }
    match spec.status {
        Status::NotYet => notes.push("Not supported yet".to_owned()),
        Status::NoEffect => notes.push("Has no effect".to_owned()),
        Status::Works if spec.callable => notes.push("Functions are not supported yet".to_owned()),
        Status::Works => {}
    }
    notes
}

fn choices(kind: &Kind) -> Option<&'static [&'static str]> {
    match kind {
        Kind::OneOf(choices) => Some(choices),
        Kind::Optional(kind) => choices(kind),
        _ => None,
    }
}

/// The default as Python writes it. The number of threads depends on the machine, and so do texts
/// made of it.
fn default_of(spec: &OptionSpec) -> String {
    if spec.name == "n_threads" {
        "os.cpu_count()".to_owned()
    } else {
        (spec.default)().to_python()
    }
}

/// A doc comment as lines without the blanks that `///` leaves.
fn flowing(doc: &str) -> String {
    doc.lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

fn indented(indent: &str, text: &str) -> String {
    text.lines().fold(String::new(), |mut result, line| {
        add(&mut result, &format!("{indent}{line}\n"));
        result
    })
}

fn add(text: &mut String, more: &str) {
    write!(text, "{more}").expect("writing to a String cannot fail");
}
