//! Text by hand: everything a graph can hold reads and prints as it stands, and what is wrong is said with its line.

use super::{Constants, Cursor, Op, constant, parse, print};
use crate::ir::{Dim, Fact, Graph, Node, Sym, Type, ValueId, verify};
use crate::kernel::{Binary, Expr, Unary};
use crate::ops::pointwise::{self, Pointwise};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Bytes, Data, Tensor};

/// Symbols of both kinds, ports, every kind of type, constants of every form, expressions, attributes, blocks in blocks and origins.
const WHOLE: &str = r#"dim s0 "batch" in 1..=8 from input 0 axis 0
dim s1 "\"n\" \\ \n\u{0}\u{202e} é" in 0.. from input 1 axis 0
dim s2 "nonzero" in 0..
input v0 "x" as "r#type": f32[s0, 12]
input v1 "n/a\n" optional: i64[s1] {1, 2*s0 + 1}
input v2 "flag": bool[]
input v3 "items": seq(f32[s0, ?])
input v4 "perhaps": optional(seq(str[..]))
input v5 "table": map(str, f32[])
const v6 = i64[9](1, 2, 3, 4, 5, 6, 7, 8, -9223372036854775808)
v7: f32[s0, 20] = MatMul(v0, f32[12, 20]@0123456789abcdef) from 0, 2  # fc
v8: f32[s0, 20] = Swish(v7) {mul(x0, sigmoid(x0))}
v9: f32[s0, 20] = Pow(v8, i64(2)) {t0 = exp(x0); f32(pow(f64(mul(t0, t0)), f64(x1)))}
v10: i64[1, s2] = Host(v9) {name: "nonzero", ints: [-1], text: ["a\"b"], results: [i64[1, s2]]}
v11: i64[2] {s2, -min(s0, max(s1, 4)) + div(2*s0*s1 - 3, s2)} = Dims() {elements: [s2, -min(s0, max(s1, 4)) + div(2*s0*s1 - 3, s2)], scalar: false, dtype: i64}
v20: f32[s0, 20] = If(v2) from 2  # a\"b
  block() {
    v13: f32[s0, 20], v14: f32[2, s0, 20] = Loop(i64(2), _, v9) {carried: 1, trip: 2}
      block(v15: i64[], v16: bool[], v17: f32[s0, 20]) {
        v18: f32[s0, 20] = Clip(v17, f32(-inf), f32(0.1)) {min(max(x0, x1), x2)}
      } -> v16, v18, v18
  } -> v13
  block() {
    v19: f32[s0, 20] = Recurrent(v9, str[2]("a # b", "\n")) {cell: "lstm", hidden: 20, directions: 1, reverse: false, activations: [], alpha: [1e-7, -0.0], beta: [], flag: false, clip: inf}
  } -> v19
v21: f32[s0, 20] = RoiAlign(v20, f16[3](0.099975586, -0.0, NaN), u4[3](0x 21 03)) {size: [2, 3], ratio: 0, scale: 0.25, maximum: true, half_pixel: false}
v22: bool[9] = Equal(v6, i64(3)) {eq(x0, x1)}
output v21 "y"
output f32(1.5) "z" as "z_1"
output v22 "same"
origin 0 node 3 "fc" "MatMul" "" opset 17
origin 2 node 4 "a\"b" "Add" "ai.onnx" opset -1
"#;

fn round_trip(g: &Graph) -> Graph {
    let text = print(g);
    let back = parse(&text, &Constants::of(g)).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(print(&back), text);
    verify(&back).unwrap();
    back
}

#[test]
fn everything_reads_and_prints_as_it_stands() {
    let mut g = parse(WHOLE, &Constants::made_up()).unwrap();
    // The hash is of made-up contents now.
    let made = g.values.iter().filter_map(|v| v.constant.as_ref()).find(|t| t.dims == [12, 20]).unwrap().clone();
    assert_eq!(print(&g), WHOLE.replace("0123456789abcdef", &format!("{:016x}", constant::hash(&made))));
    assert!(made.slice::<f32>().iter().any(|x| *x != made.slice::<f32>()[0]));
    round_trip(&g);
    assert_eq!(g.inputs[1].name, "n/a\n");
    assert_eq!(g.symbols[1].input, Some((1, 0)));
    assert_eq!(g.ty(ValueId(3)), &Type::Sequence(Box::new(Type::Tensor(DType::F32, vec![Dim::sym(Sym(0)), Dim::sym(Sym::ANY)]))));
    assert_eq!((g.origins.len(), g.origins[2].opset), (3, -1));
    // Comments, spaces and empty lines are nothing.
    let loose = WHOLE.replace('\n', "  # \"\n\n").replace(", ", " ,  ");
    assert_eq!(print(&parse(&loose, &Constants::made_up()).unwrap()).lines().count(), WHOLE.lines().count());
    // A name in between goes, but nothing else.
    g[ValueId(8)].name = "hidden".into();
    round_trip(&g);
}

#[test]
fn constants_keep_every_bit() {
    for &dtype in DType::ALL {
        for dims in [&[][..], &[0], &[1], &[1, 1], &[3], &[3, 5], &[8, 8], &[13, 5], &[0, 70]] {
            let mut t = Tensor::zeros(dtype, dims);
            let mut seed = 1u64;
            let mut next = || {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) as u32
            };
            t.strings_mut().iter_mut().for_each(|s| *s = char::from_u32(next() % 0xd800).into_iter().chain(['"', '\\']).collect());
            t.bytes_mut().iter_mut().for_each(|b| *b = if dtype == DType::Bool { next() as u8 % 2 } else { next() as u8 });
            // The payload of a NaN is not kept.
            match dtype {
                DType::F32 => t.slice_mut::<u32>().iter_mut().for_each(|x| *x &= !0x0080_0000),
                DType::F64 => t.slice_mut::<u64>().iter_mut().for_each(|x| *x &= !(1 << 52)),
                DType::F16 => t.slice_mut::<u16>().iter_mut().for_each(|x| *x &= !0x0400),
                DType::Bf16 => t.slice_mut::<u16>().iter_mut().for_each(|x| *x &= !0x0080),
                _ => {}
            }
            let mut g = Graph::default();
            let v = g.add_constant(t.clone(), "");
            g.body.outputs = vec![v];
            g.outputs = vec![crate::ir::Port { name: "y".into(), field: String::new(), optional: false }];
            let back = round_trip(&g);
            assert_eq!(back[back.body.outputs[0]].constant.as_ref(), Some(&t), "{dtype}{dims:?}");
        }
    }
    let odd = Tensor { dtype: DType::Bool, dims: vec![2], data: Data::Bytes(Bytes::copy_of(&[1, 2])) };
    let mut g = Graph::default();
    g.body.outputs = vec![g.add_constant(odd.clone(), "")];
    g.outputs = vec![crate::ir::Port { name: "y".into(), field: String::new(), optional: false }];
    let back = round_trip(&g);
    assert_eq!(back[back.body.outputs[0]].constant.as_ref(), Some(&odd));
    let floats = [0.1f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE / 2.0, 1e20];
    let mut text = String::new();
    constant::write(&mut text, &Tensor::new(&[7], &floats));
    assert_eq!(text, "f32[7](0.1, -0.0, inf, -inf, NaN, 5.877472e-39, 1e20)");
}

/// A graph of one pointwise node.
fn pointwise(expr: Expr, types: &[DType]) -> Graph {
    let mut g = Graph::default();
    let shape = vec![Dim::int(2)];
    let inputs: Vec<ValueId> = types.iter().map(|t| g.add_value(Fact::tensor(*t, shape.clone()), "")).collect();
    let outputs: Vec<ValueId> = expr.results.iter().map(|r| g.add_value(Fact::tensor(expr.ty(*r), shape.clone()), "")).collect();
    g.body.inputs.clone_from(&inputs);
    g.inputs = inputs.iter().map(|v| crate::ir::Port { name: v.to_string(), field: String::new(), optional: false }).collect();
    let op = Pointwise { name: "Cast", expr }.into();
    let n = g.add_node(Node { op, inputs: inputs.into_iter().map(Some).collect(), outputs, blocks: vec![], origins: vec![] });
    g.body.nodes.push(n);
    g
}

#[test]
fn expressions_say_the_types_that_do_not_go_without_saying() {
    let mut e = Expr::default();
    let (x, y) = (e.input(0, DType::U8), e.input(1, DType::F64));
    let (two, half) = (e.constant(2.0, DType::U8), e.constant(0.5, DType::F64));
    let (sum, scaled) = (e.bin(Binary::Add, x, two), e.bin(Binary::Mul, y, half));
    let wide = e.cast(sum, DType::F64);
    let (less, nan) = (e.bin(Binary::Lt, wide, scaled), e.un(Unary::IsNan, scaled));
    let chosen = e.select(less, wide, scaled);
    e.results = vec![chosen, nan, two];
    let g = pointwise(e, &[DType::Bool, DType::F64]);
    let text = print(&g);
    let want = "{t0 = mul(x1, 0.5:f64); t1 = f64(add(x0:u8, 2:u8)); select(lt(t1, t0), t1, t0); is_nan(t0); 2:u8}";
    assert!(text.contains(want), "{text}");
    round_trip(&g);
}

#[test]
fn an_expression_does_not_grow_with_what_it_shares() {
    let (mut doubled, mut deep) = (Expr::default(), Expr::default());
    let (mut a, mut b) = (doubled.input(0, DType::F32), deep.input(0, DType::F32));
    for _ in 0..1000 {
        a = doubled.bin(Binary::Add, a, a);
        b = deep.un(Unary::Exp, b);
    }
    doubled.results.push(a);
    deep.results.push(b);
    for e in [doubled, deep] {
        assert!(e.to_string().len() < 30_000);
        round_trip(&pointwise(e, &[DType::F32]));
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let cases: &[(&str, usize, &str)] = &[
        ("nonsense", 1, "expected a value such as v0, found \"nonsense\""),
        ("\n\ninput v0: f32[]", 3, "expected a string, found \": f32[]\""),
        ("input v0 \"x\": f33[]", 1, "expected an element type, found \"f33[]\""),
        ("input v0 \"x\": f32[s0]", 1, "nothing declares the symbol s0"),
        ("input v0 \"x\": f32[] f32", 1, "expected the end of the line, found \"f32\""),
        ("input v0 \"x: f32[]", 1, "a string does not end"),
        ("input v0 \"\\u{110000}\": f32[]", 1, "a string has an escape that is no character"),
        ("input v0 \"\\x\": f32[]", 1, "a string has an escape that is none of \\\" \\\\ \\n \\u{}"),
        ("input v4000000000 \"x\": f32[]", 1, "v4000000000 is beyond the greatest id, v1048575"),
        ("input v0 \"x\": f32[]\ninput v0 \"y\": f32[]", 2, "v0 is defined twice"),
        ("dim s1 \"n\" in 0..", 1, "expected the symbol s0, found s1"),
        ("dim s0 \"n\" in 0..=99999999999999999999", 1, "expected an integer, found \"99999999999999999999\""),
        ("dim s0 \"n\" in 0.. from input 0 axis 1\ninput v0 \"x\": f32[s0]", 1, "there is no axis 1 of an input 0"),
        ("output v3 \"y\"", 1, "nothing before this defines v3"),
        ("output _ \"y\"", 1, "an output is a value, not \"_\""),
        ("output f32[2](1) \"y\"", 1, "the shape has 2 elements, found 1"),
        ("output u8(256) \"y\"", 1, "expected a number that is u8, found \"256) \\\"y\\\"\""),
        ("output u4[3](0x 01) \"y\"", 1, "expected 2 bytes, found 1"),
        ("output f32[99]@77 \"y\"", 1, "no constant has the hash 0000000000000077"),
        ("v0: f32[] = Nothing()", 1, "there is no operator Nothing"),
        ("v0: f32[] = Softmax(f32(1.0))", 1, "expected \"{\", found the end of the line"),
        ("v0: f32[] = Softmax(f32(1.0)) {mode: \"x\", axis: 1}", 1, "expected \"axis\", found \"mode: \\\"x\\\", axis: 1}\""),
        ("v0: f32[] = ScatterNd() {mode: \"sub\"}", 1, "\"sub\" is none of none, add, mul, max, min"),
        ("v0: f32[] = RoiAlign() {size: [1]", 1, "expected a list of 2, found 1"),
        ("v0: f32[] = Relu(f32(1.0)) {max(x0)}", 1, "max does not take 1 operands"),
        ("v0: f32[] = Relu(f32(1.0)) {x1}", 1, "x1 needs a type: it is no operand"),
        ("v0: f32[] = Relu(f32(1.0)) {t0}", 1, "nothing defines t0"),
        ("v0: f32[] = Relu(f32(1.0)) {x9:f32}", 1, "the operands, results and blocks of Pointwise do not fit together"),
        ("v0: f64[] = Relu(f32(1.0)) {x0}\n\n\n", 1, "the operands, results and blocks of Pointwise do not fit together"),
        ("v0: f32[] = If(bool(true))\n  block() {\n  } -> f32(1.0)\n", 1, "If needs two blocks"),
        ("v0: f32[] = Relu(v0) {x0}", 1, "nothing before this defines v0"),
        ("v0: f32[] = MatMul() from 7", 1, "nothing says what the origin 7 is"),
        ("v0: f32[] = MatMul() from 7000000", 1, "7000000 is beyond the greatest number of an origin, 1048575"),
        ("block() {", 1, "a block follows the node it belongs to"),
        ("} -> v0", 1, "nothing before this defines v0"),
        ("} ->", 1, "no block is open here"),
        ("v0: f32[] = If(bool(true))\n  block() {\n", 2, "a block is not closed"),
        ("v0: f32[] = If(bool(true))\n  block() {\n  output v0 \"y\"", 3, "an output cannot stand inside of a block"),
    ];
    for (text, line, message) in cases {
        let e = parse(text, &Constants::default()).expect_err(text);
        assert_eq!((e.line, e.message.as_str()), (*line, *message), "{text}");
    }
    for deep in ["seq(".repeat(100_000), format!("f32[{}", "div(".repeat(100_000))] {
        assert!(parse(&format!("input v0 \"x\": {deep}"), &Constants::default()).unwrap_err().message.contains("deeper"));
    }
    let deep = format!("v0: f32[] = Relu(f32(1.0)) {{{}", "exp(".repeat(100_000));
    assert!(parse(&deep, &Constants::default()).unwrap_err().message.contains("deeper"));
    let blocks = "v0: f32[] = If(bool(true))\nblock() {\n".to_string()
        + &(1..200).map(|i| format!("v{i}: f32[] = If(bool(true))\nblock() {{\n")).collect::<String>();
    assert!(parse(&blocks, &Constants::default()).unwrap_err().message.contains("deeper"));
    let e = parse("output f32[1000000, 1000000]@1 \"y\"", &Constants::made_up()).unwrap_err();
    assert_eq!(e.to_string(), "line 1: the constants are too large to make up");
}

#[test]
fn broken_text_is_an_error_and_no_panic() {
    let marks = [
        "",
        " ",
        "\n",
        "\"",
        "#",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "-",
        "0",
        "9",
        "99999999999999999999",
        "v",
        "s",
        "x",
        "t0",
        "é",
        ":",
        ",",
        "@",
        "_",
    ];
    let ends: Vec<usize> = WHOLE.char_indices().map(|(i, _)| i).collect();
    for (n, &at) in ends.iter().enumerate() {
        let _ = parse(&WHOLE[..at], &Constants::made_up());
        let next = ends.get(n + 1).copied().unwrap_or(WHOLE.len());
        for k in 0..3 {
            let mark = marks[(n * 7 + k * 5) % marks.len()];
            for rest in [at, next] {
                let text = format!("{}{mark}{}", &WHOLE[..at], &WHOLE[rest..]);
                match parse(&text, &Constants::made_up()) {
                    Ok(g) => drop(round_trip(&g)),
                    Err(e) => assert!((1..=text.lines().count()).contains(&e.line), "{e}"),
                }
            }
        }
    }
}

#[test]
fn no_name_is_both_an_operator_and_an_elementwise_one() {
    for name in pointwise::names() {
        let found = Op::read_attributes(name, &mut Cursor::new("", 0)).unwrap_err();
        assert_eq!(found, format!("there is no operator {name}"));
    }
}
