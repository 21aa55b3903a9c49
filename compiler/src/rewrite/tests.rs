//! Every rule against the reference evaluator.
