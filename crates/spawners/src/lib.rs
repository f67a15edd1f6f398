//! The native spawners, one module each.
