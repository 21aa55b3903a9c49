kiln::model! { struct M = "../../../../tests/ui/main.rs"; }

fn main() {}
