//! Configuration values: classes, options, lazy operations and how sections merge.
