//! Nobody is served what is another's, and nobody a part for the whole.
