//! External data: what is read, what is refused, and that every carrier of a tensor goes through the one resolver.

use super::files::Folder;
use super::*;
use crate::onnx::read_file;
use kiln_kernels::dtype::DType;

fn entries(pairs: &[(&str, &str)]) -> Vec<StringStringEntryProto> {
    pairs.iter().map(|(k, v)| StringStringEntryProto { key: k.to_string(), value: v.to_string() }).collect()
}

/// Four bytes that lie where `pairs` say.
fn outside(pairs: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        name: "t".into(),
        data_type: DType::U8.to_onnx(),
        dims: vec![4],
        data_location: EXTERNAL,
        external_data: entries(pairs),
        ..Default::default()
    }
}

fn load(folder: &Folder, model: &ModelProto) -> Result<Model> {
    read_file(&folder.write("model.onnx", &model.encode_to_vec()), &Limits::default())
}

#[test]
fn ranges_of_files_beside_the_model_are_read() {
    let folder = Folder::new("ranges");
    let data = folder.write("data.bin", b"0123456789");
    let deep = folder.write("sub/deep.bin", b"abcd");
    let mut tensors = vec![
        outside(&[("location", "data.bin")]),
        outside(&[("location", "data.bin"), ("offset", "3"), ("length", "4")]),
        outside(&[("location", "./data.bin"), ("offset", "6"), ("checksum", "anything"), ("basepath", "/nowhere")]),
        outside(&[("location", "sub/deep.bin")]),
    ];
    for (i, t) in tensors.iter_mut().enumerate() {
        t.name = format!("t{i}");
    }
    let model = load(&folder, &model(GraphProto { initializer: tensors, ..Default::default() })).unwrap();
    let read: Vec<&[u8]> = model.graph.initializers.iter().map(|(_, t)| t.bytes()).collect();
    assert_eq!(read, [b"0123", b"3456", b"6789", b"abcd"]);
    assert_eq!(model.data_files, [data, deep]);
}

#[test]
fn equal_ranges_are_read_once_and_shared() {
    let folder = Folder::new("shared");
    folder.write("data.bin", b"0123");
    let tensors = (0..100).map(|i| TensorProto { name: format!("t{i}"), ..outside(&[("location", "data.bin")]) }).collect();
    let model = load(&folder, &model(GraphProto { initializer: tensors, ..Default::default() })).unwrap();
    let addresses: Vec<_> = model.graph.initializers.iter().map(|(_, t)| t.bytes().as_ptr()).collect();
    assert!(addresses.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn one_file_does_not_fill_memory_by_overlapping_ranges() {
    let folder = Folder::new("overlap");
    folder.write("data.bin", &[0; 64]);
    let tensor = |i: usize| TensorProto {
        name: format!("t{i}"),
        dims: vec![50],
        ..outside(&[("location", "data.bin"), ("offset", &i.to_string())])
    };
    let why = said(load(&folder, &model(GraphProto { initializer: (0..14).map(tensor).collect(), ..Default::default() })));
    assert!(why.contains("4 times over"), "{why}");
}

#[test]
fn malformed_entries_are_refused() {
    let folder = Folder::new("entries");
    folder.write("data.bin", &[0; 1024]);
    let at = |key: &'static str, value: &'static str| vec![("location", "data.bin"), (key, value)];
    let cases = [
        (vec![], "names no location"),
        (at("offset", "-1"), "not a number"),
        (at("offset", "+1"), "not a number"),
        (at("offset", " 1"), "not a number"),
        (at("offset", "0x10"), "not a number"),
        (at("offset", ""), "not a number"),
        (at("offset", "1e3"), "not a number"),
        (at("offset", "99999999999999999999999"), "too large"),
        (at("offset", "18446744073709551615"), "at offset 18446744073709551615"),
        (at("offset", "4611686018427387904"), "which has 1024 bytes"),
        (at("offset", "1021"), "which has 1024 bytes"),
        (at("length", "4611686018427387904"), "its dims and type take 4 bytes"),
        (at("length", "3"), "has length 3"),
        (at("length", "-4"), "not a number"),
        (at("location", "data.bin"), "\"location\" twice"),
        (at("prefix", "x"), "unknown entry \"prefix\""),
        (at("__class__", "x"), "unknown entry \"__class__\""),
    ];
    for (pairs, expected) in cases {
        let why = said(load(&folder, &holding(outside(&pairs))));
        assert!(why.contains(expected), "{pairs:?}: {why}");
    }
}

#[test]
fn a_huge_range_is_refused_before_memory_is_asked_for() {
    let folder = Folder::new("huge");
    folder.write("data.bin", &[0; 1024]);
    for dims in [vec![1i64 << 37], vec![1 << 20, 1 << 17]] {
        let tensor = TensorProto { dims, ..outside(&[("location", "data.bin")]) };
        let why = said(load(&folder, &holding(tensor)));
        assert!(why.contains("which has 1024 bytes"), "{why}");
    }
}

#[test]
fn external_data_has_no_data_inside_and_no_strings() {
    let folder = Folder::new("both");
    folder.write("data.bin", &[0; 4]);
    let both = TensorProto { raw_data: Some(vec![0; 4].into()), ..outside(&[("location", "data.bin")]) };
    assert!(said(load(&folder, &holding(both))).contains("it also has raw_data"));
    let strings = TensorProto { data_type: DType::Str.to_onnx(), ..outside(&[("location", "data.bin")]) };
    assert!(said(load(&folder, &holding(strings))).contains("it holds strings"));
}

#[test]
fn a_model_from_memory_has_no_external_data_without_a_folder() {
    assert!(refusal(&holding(outside(&[("location", "data.bin")]))).contains("without a folder"));
}

/// A folder `inside` with links of every kind, beside files that a model must not reach.
#[cfg(unix)]
fn trap(name: &str) -> (Folder, PathBuf) {
    use std::os::unix::fs::symlink;
    let folder = Folder::new(name);
    folder.write("secret.bin", b"0123");
    folder.write("elsewhere/secret.bin", b"0123");
    folder.write("inside/data.bin", b"0123");
    folder.write("inside/sub/data.bin", b"0123");
    let inside = folder.path().join("inside");
    symlink("../secret.bin", inside.join("link")).unwrap();
    symlink("data.bin", inside.join("link_inside")).unwrap();
    symlink("../elsewhere", inside.join("dir_link")).unwrap();
    symlink("sub", inside.join("dir_link_inside")).unwrap();
    symlink("nowhere", inside.join("dangling")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    std::fs::hard_link(folder.path().join("secret.bin"), inside.join("hard")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(inside.join("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket"));
    (folder, inside)
}

#[cfg(unix)]
use std::path::PathBuf;

#[cfg(unix)]
const REFUSED: &[(&str, &str)] = &[
    ("", "is empty"),
    (".", "is a folder"),
    ("./", "is a folder"),
    ("data.bin/", "is a folder"),
    ("..", "\"..\""),
    ("../secret.bin", "\"..\""),
    ("../inside/data.bin", "\"..\""),
    ("sub/../data.bin", "\"..\""),
    ("sub/../../secret.bin", "\"..\""),
    ("./../secret.bin", "\"..\""),
    ("sub/./../../secret.bin", "\"..\""),
    ("/etc/passwd", "relative to the model's folder"),
    ("//etc/passwd", "relative to the model's folder"),
    ("/", "relative to the model's folder"),
    ("data.bin\0", "NUL"),
    ("..\\secret.bin", "backslash"),
    ("C:\\secret.bin", "backslash"),
    ("\\\\server\\share", "backslash"),
    ("link", "symbolic link"),
    ("link_inside", "symbolic link"),
    ("dir_link/secret.bin", "symbolic link"),
    ("dir_link_inside/data.bin", "symbolic link"),
    ("dangling", "symbolic link"),
    ("loop", "symbolic link"),
    ("sub", "is a folder"),
    ("data.bin/x", "is a file"),
    ("pipe", "pipe, socket or device"),
    ("socket", "pipe, socket or device"),
    ("missing.bin", "cannot be used"),
    ("~/data.bin", "cannot be used"),
    ("file:data.bin", "cannot be used"),
    ("*/_ORT_MEM_ADDR_/*", "cannot be used"),
];

#[cfg(unix)]
#[test]
fn locations_that_leave_the_folder_or_are_no_files_are_refused() {
    let (_folder, inside) = trap("locations");
    for (location, expected) in REFUSED {
        let bytes = holding(outside(&[("location", location)])).encode_to_vec();
        let why = said(read(&bytes, Some(&inside), &Limits::default()));
        assert!(why.contains(expected) && why.contains("tensor \"t\""), "{location:?}: {why}");
    }
    let hard = holding(outside(&[("location", "hard")])).encode_to_vec();
    assert!(read(&hard, Some(&inside), &Limits::default()).is_ok(), "hard links are files like any other");
}

/// Every message that can carry a tensor, around `t`.
fn carriers(t: TensorProto) -> Vec<(&'static str, ModelProto)> {
    let with = |attribute: AttributeProto| {
        let mut n = node("Constant", &[], &["c"]);
        n.attribute.push(attribute);
        n
    };
    let graph = |n: NodeProto| model(GraphProto { node: vec![n], ..Default::default() });
    let indices = TensorProto { data_type: DType::I64.to_onnx(), dims: vec![4], int64_data: vec![0, 1, 2, 3], ..Default::default() };
    let sparse = SparseTensorProto { values: Some(t.clone()), indices: Some(indices.clone()), dims: vec![4] };
    let far_indices = SparseTensorProto { values: Some(indices), indices: Some(t.clone()), dims: vec![4] };
    let of_kind = |kind, a: AttributeProto| with(AttributeProto { name: "value".into(), kind, ..a });
    let inner = |g: GraphProto| {
        let mut n = node("If", &["c"], &["y"]);
        n.attribute.push(graph_attribute("then_branch", g));
        n
    };
    let initializer = || GraphProto { initializer: vec![t.clone()], ..Default::default() };
    let constant = || with(tensor_attribute("value", t.clone()));
    let function = FunctionProto { name: "f".into(), domain: "d".into(), node: vec![constant()], ..Default::default() };
    let default = FunctionProto { attribute_proto: vec![tensor_attribute("v", t.clone())], node: vec![], ..function.clone() };
    let in_model = |f: FunctionProto| ModelProto { functions: vec![f], ..model(GraphProto::default()) };
    let sparse_in = |s: &SparseTensorProto| model(GraphProto { sparse_initializer: vec![s.clone()], ..Default::default() });
    vec![
        ("initializer", holding(t.clone())),
        ("attribute", graph(constant())),
        ("attribute, tensors", graph(of_kind(attribute_type::TENSORS, AttributeProto { tensors: vec![t.clone()], ..Default::default() }))),
        ("sparse values", sparse_in(&sparse)),
        ("sparse indices", sparse_in(&far_indices)),
        (
            "sparse attribute",
            graph(of_kind(
                attribute_type::SPARSE_TENSOR,
                AttributeProto { sparse_tensor: Some(Box::new(sparse.clone())), ..Default::default() },
            )),
        ),
        (
            "sparse attributes",
            graph(of_kind(attribute_type::SPARSE_TENSORS, AttributeProto { sparse_tensors: vec![sparse], ..Default::default() })),
        ),
        ("subgraph initializer", graph(inner(initializer()))),
        ("subgraph constant", graph(inner(GraphProto { node: vec![constant()], ..Default::default() }))),
        ("subgraph of a subgraph", graph(inner(GraphProto { node: vec![inner(initializer())], ..Default::default() }))),
        ("function body", in_model(function)),
        ("function default", in_model(default)),
    ]
}

#[cfg(unix)]
#[test]
fn every_carrier_is_checked() {
    let (_folder, inside) = trap("carriers");
    for location in ["../secret.bin", "link", "dir_link/secret.bin", "/etc/passwd"] {
        for (carrier, model) in carriers(outside(&[("location", location)])) {
            let why = said(read(&model.encode_to_vec(), Some(&inside), &Limits::default()));
            assert!(["\"..\"", "symbolic link", "relative"].iter().any(|w| why.contains(w)), "{carrier}: {why}");
        }
    }
    for (carrier, model) in carriers(outside(&[("location", "data.bin")])).into_iter().filter(|(c, _)| *c != "sparse indices") {
        let read = read(&model.encode_to_vec(), Some(&inside), &Limits::default());
        assert_eq!(read.unwrap_or_else(|e| panic!("{carrier}: {e}")).data_files, [inside.join("data.bin")], "{carrier}");
    }
}

#[cfg(unix)]
#[test]
fn training_info_opens_nothing() {
    let (_folder, inside) = trap("training");
    let graph = GraphProto { initializer: vec![outside(&[("location", "../secret.bin")])], ..Default::default() };
    let info = TrainingInfoProto { algorithm: Some(graph), ..Default::default() };
    let model = ModelProto { training_info: vec![info], ..model(GraphProto::default()) };
    let read = read(&model.encode_to_vec(), Some(&inside), &Limits::default()).unwrap();
    assert!(read.data_files.is_empty());
}

#[cfg(unix)]
#[test]
fn the_model_itself_is_a_regular_file() {
    let (_folder, inside) = trap("itself");
    for (name, expected) in [("sub", "a folder"), ("pipe", "a pipe"), ("missing", "cannot read the model")] {
        let why = said(read_file(&inside.join(name), &Limits::default()));
        assert!(why.contains(expected) && why.contains(name), "{why}");
    }
}

#[test]
fn no_other_file_of_the_reader_opens_files() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnx");
    for entry in std::fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let opens = ["File::", "fs::", "OpenOptions"].iter().any(|w| text.contains(w));
        assert_eq!(opens, path.ends_with("external.rs"), "{}", path.display());
    }
}
