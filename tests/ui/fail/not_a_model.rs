kiln::model! { struct M = "ui/not_a_model.txt"; }

fn main() {}
