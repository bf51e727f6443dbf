//! Remembering answers.
