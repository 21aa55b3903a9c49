kiln::model! { struct M = "../../../../tests/ui/not_a_model.txt"; }

fn main() {}
