//! hugewalk
#![no_std]
