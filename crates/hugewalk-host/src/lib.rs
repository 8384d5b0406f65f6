//! A user-space platform for hugewalk.
