//! A tiny BERT, alone in its crate: it is compiled with optimization also where the program around it is not.

kiln::include_model!("bert");
