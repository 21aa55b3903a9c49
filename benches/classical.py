#!/usr/bin/env python3
"""Models of scikit-learn, XGBoost and LightGBM: trained, exported, held against ONNX Runtime and timed beside it. classical.py DIR [NAME ...]

Every model is trained on data that scikit-learn carries, exported by skl2onnx or onnxmltools, and written to DIR as a case with two sets of
inputs, one row and a thousand, and what ONNX Runtime makes of them. `kiln test` says whether compiled models agree: labels equal, numbers to
1e-5. With --time, `kiln bench` and ONNX Runtime run both sets on one thread; least times in microseconds are printed as a table.

Needs scikit-learn, skl2onnx, onnxmltools, onnxruntime, onnx, and for their models xgboost and lightgbm.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

import numpy

ROWS = 1000
MODELS = {}


def model(f):
    """A function that gives an ONNX model and its inputs by name: some hundred rows, in a list of columns or a matrix."""
    MODELS[f.__name__] = f
    return f


def data(name):
    """Rows and targets of a data set of scikit-learn's."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x.astype(numpy.float32), y


def export(estimator, x, **options):
    """A fitted estimator whose input is rows like `x`, without ZipMap."""
    from skl2onnx import to_onnx

    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if type(last).__name__ == "LinearSVC":
        # Of it, skl2onnx takes no word of ZipMap, and adds one where it is told nothing.
        options = {"nocl": False}
    elif hasattr(last, "predict_proba"):
        options = {"zipmap": False, **options}
    found = to_onnx(estimator, x[:1], options={id(estimator): options} if options else None, target_opset={"": 21, "ai.onnx.ml": 3})
    return found, {found.graph.input[0].name: x}


def fitted(make, name="breast_cancer", **options):
    """A model of an estimator on one of the data sets."""

    def build():
        x, y = data(name)
        return export(make().fit(x, y), x, **options)

    return build


def add(name, make, on="breast_cancer", **options):
    MODELS[name] = fitted(make, on, **options)


def ensembles():
    from sklearn import ensemble, tree

    forest, classify = dict(n_estimators=100, random_state=0), dict(on="digits")
    add("tree", lambda: tree.DecisionTreeClassifier(random_state=0), "iris")
    add("tree_regressor", lambda: tree.DecisionTreeRegressor(random_state=0), "diabetes")
    add("tree_targets", lambda: Targets(tree.DecisionTreeRegressor(max_depth=6, random_state=0)), "diabetes")
    for depth in (8, 16):
        add(f"forest_{depth}", lambda d=depth: ensemble.RandomForestClassifier(max_depth=d, **forest), **classify)
        add(f"forest_regressor_{depth}", lambda d=depth: ensemble.RandomForestRegressor(max_depth=d, **forest), "diabetes")
    add("forest_binary", lambda: ensemble.RandomForestClassifier(max_depth=12, **forest))
    add("forest_zipmap", lambda: ensemble.RandomForestClassifier(max_depth=8, **forest), "iris", zipmap=True)
    add("extra_trees", lambda: ensemble.ExtraTreesClassifier(**forest), **classify)
    add("gradient_boosting", lambda: ensemble.GradientBoostingClassifier(**forest))
    add("gradient_boosting_classes", lambda: ensemble.GradientBoostingClassifier(**forest), "iris")
    add("gradient_boosting_regressor", lambda: ensemble.GradientBoostingRegressor(n_estimators=500, random_state=0), "diabetes")
    add("hist_boosting", lambda: ensemble.HistGradientBoostingClassifier(random_state=0))
    add("hist_boosting_classes", lambda: ensemble.HistGradientBoostingClassifier(random_state=0), "wine")
    add("hist_boosting_regressor", lambda: Gaps(ensemble.HistGradientBoostingRegressor(random_state=0)), "diabetes")
    add("isolation_forest", lambda: ensemble.IsolationForest(random_state=0), "wine")
    add("ada_boost", lambda: ensemble.AdaBoostClassifier(n_estimators=50, random_state=0))
    add("bagging", lambda: ensemble.BaggingClassifier(random_state=0), "wine")
    add("voting", lambda: Voting(), "iris")


def linear():
    from sklearn import linear_model, svm, naive_bayes, neighbors, neural_network, gaussian_process, discriminant_analysis, cluster
    from sklearn import decomposition, mixture, pipeline, preprocessing

    def scaled(*steps):
        return pipeline.make_pipeline(preprocessing.StandardScaler(), *steps)

    add("logistic", lambda: scaled(linear_model.LogisticRegression(max_iter=500)))
    add("logistic_classes", lambda: scaled(linear_model.LogisticRegression(max_iter=500)), "digits")
    add("ridge", lambda: linear_model.Ridge(), "diabetes")
    add("sgd", lambda: scaled(linear_model.SGDClassifier(loss="modified_huber", random_state=0)))
    add("linear_svc", lambda: scaled(svm.LinearSVC()), "wine")
    add("svc_rbf", lambda: scaled(svm.SVC(probability=True, random_state=0)))
    add("svc_rbf_classes", lambda: svm.SVC(probability=True, gamma=0.001, random_state=0), "digits")
    add("svc_poly", lambda: scaled(svm.SVC(kernel="poly", probability=True, random_state=0)), "wine")
    add("svc_decisions", lambda: scaled(svm.SVC()), "iris")
    add("svr", lambda: scaled(svm.SVR(C=100)), "diabetes")
    add("nu_svr_sigmoid", lambda: scaled(svm.NuSVR(kernel="sigmoid", C=10)), "diabetes")
    add("one_class_svm", lambda: scaled(svm.OneClassSVM()), "wine")
    add("neighbours", lambda: scaled(neighbors.KNeighborsClassifier()), "wine")
    add("neighbours_regressor", lambda: scaled(neighbors.KNeighborsRegressor(weights="distance")), "diabetes")
    add("naive_bayes", lambda: naive_bayes.GaussianNB(), "iris")
    add("naive_bayes_counts", lambda: naive_bayes.MultinomialNB(), "digits")
    add("perceptron", lambda: scaled(neural_network.MLPClassifier(max_iter=300, random_state=0)), "digits")
    add("perceptron_regressor", lambda: scaled(neural_network.MLPRegressor(max_iter=300, random_state=0)), "diabetes")
    add("gaussian_process", lambda: scaled(gaussian_process.GaussianProcessRegressor(alpha=1.0)), "diabetes")
    add("discriminant", lambda: scaled(discriminant_analysis.LinearDiscriminantAnalysis()), "wine")
    add("quadratic", lambda: scaled(discriminant_analysis.QuadraticDiscriminantAnalysis()), "iris")
    add("clusters", lambda: scaled(cluster.KMeans(5, n_init=2, random_state=0)), "wine")
    add("mixture", lambda: scaled(mixture.GaussianMixture(3, random_state=0)), "iris")
    add("components", lambda: scaled(decomposition.PCA(8)), "digits")
    add("components_logistic", lambda: scaled(decomposition.PCA(20), linear_model.LogisticRegression(max_iter=500)), "digits")
    add("polynomial_ridge", lambda: scaled(preprocessing.PolynomialFeatures(2), linear_model.Ridge()), "diabetes")
    add("normalizer", lambda: pipeline.make_pipeline(preprocessing.Normalizer("l1"), linear_model.LogisticRegression()), "wine")
    add("binned", lambda: pipeline.make_pipeline(preprocessing.KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), linear_model.LogisticRegression()), "iris")
    add("quantiles", lambda: pipeline.make_pipeline(preprocessing.PowerTransformer(), linear_model.LogisticRegression()), "wine")


class Targets:
    """Trains on two targets."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, x, y):
        return self.estimator.fit(x, numpy.stack([y, -2 * y], 1))


class Gaps:
    """Trains on rows of which a tenth of the numbers is missing; what it leaves in `x` is missing when it is run, too."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, x, y):
        x[numpy.random.default_rng(0).random(x.shape) < 0.1] = numpy.nan
        return self.estimator.fit(x, y)


def Voting():
    from sklearn import ensemble, linear_model, tree

    each = [("a", linear_model.LogisticRegression(max_iter=500)), ("b", tree.DecisionTreeClassifier(max_depth=3, random_state=0))]
    return ensemble.VotingClassifier(each, voting="soft", flatten_transform=False)


@model
def columns():
    """A scaler over numbers with gaps and a one-hot encoder over words, then a logistic regression."""
    from sklearn import compose, impute, linear_model, pipeline, preprocessing
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    import pandas

    x, y = data("breast_cancer")
    rng = numpy.random.default_rng(0)
    numbers = x[:, :4].copy()
    numbers[rng.random(numbers.shape) < 0.1] = numpy.nan
    words = rng.choice(["red", "green", "blue", "violet"], (len(x), 2)).astype(object)
    frame = pandas.DataFrame({**{f"n{i}": numbers[:, i] for i in range(4)}, "w0": words[:, 0], "w1": words[:, 1]})
    number = pipeline.make_pipeline(impute.SimpleImputer(strategy="median"), preprocessing.StandardScaler())
    word = preprocessing.OneHotEncoder(handle_unknown="ignore")
    by = compose.ColumnTransformer([("number", number, [f"n{i}" for i in range(4)]), ("word", word, ["w0", "w1"])])
    fit = pipeline.make_pipeline(by, linear_model.LogisticRegression(max_iter=500)).fit(frame, numpy.where(y == 1, "good", "bad"))
    types = [(f"n{i}", FloatTensorType([None, 1])) for i in range(4)] + [("w0", StringTensorType([None, 1])), ("w1", StringTensorType([None, 1]))]
    found = to_onnx(fit, initial_types=types, options={id(fit): {"zipmap": False}}, target_opset={"": 21, "ai.onnx.ml": 3})
    words[:7, 0] = "unknown"
    return found, {**{f"n{i}": numbers[:, i : i + 1] for i in range(4)}, "w0": words[:, :1], "w1": words[:, 1:]}


@model
def ordinal_forest():
    """Words to numbers, then a forest with labels that are words."""
    from sklearn import ensemble, pipeline, preprocessing
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType

    rng = numpy.random.default_rng(0)
    words = rng.choice(["a", "bb", "ccc", "dddd", "e"], (500, 4)).astype(object)
    labels = numpy.where((words[:, 0] == "a") ^ (words[:, 1] == "bb"), "yes", "no")
    fit = pipeline.make_pipeline(preprocessing.OrdinalEncoder(), ensemble.RandomForestClassifier(20, random_state=0)).fit(words, labels)
    types = [("words", StringTensorType([None, 4]))]
    return to_onnx(fit, initial_types=types, options={id(fit): {"zipmap": False}}, target_opset={"": 21, "ai.onnx.ml": 3}), {"words": words}


@model
def text():
    """TF-IDF over sentences, then a logistic regression."""
    from sklearn import feature_extraction, linear_model, pipeline
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType

    rng = numpy.random.default_rng(0)
    lexicon = numpy.array([f"word{i}" for i in range(200)])
    sentences = numpy.array([" ".join(rng.choice(lexicon, 12)) for _ in range(400)])
    y = numpy.array([("word1 " in s + " ") or ("word7 " in s + " ") for s in sentences]).astype(int)
    vectorizer = feature_extraction.text.TfidfVectorizer(token_pattern="[a-zA-Z0-9_]+", ngram_range=(1, 2))
    fit = pipeline.make_pipeline(vectorizer, linear_model.LogisticRegression()).fit(sentences, y)
    types = [("text", StringTensorType([None, 1]))]
    found = to_onnx(fit, initial_types=types, options={id(fit): {"zipmap": False}, id(vectorizer): {"locale": "C"}}, target_opset={"": 21, "ai.onnx.ml": 3})
    return found, {"text": sentences.astype(object)[:, None]}


def tools(name, estimator, x, **how):
    """A fitted booster through onnxmltools."""
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("x", FloatTensorType([None, x.shape[1]]))]
    return getattr(onnxmltools, f"convert_{name}")(estimator, initial_types=types, target_opset=15, **how), {"x": x}


def xgboost(kind, on, gaps=False, **how):
    def build():
        import xgboost

        x, y = data(on)
        if gaps:
            x[numpy.random.default_rng(0).random(x.shape) < 0.1] = numpy.nan
        return tools("xgboost", getattr(xgboost, f"XGB{kind}")(random_state=0, n_jobs=1, **how).fit(x, y), x)

    return build


def lightgbm(kind, on, gaps=False, categories=0, **how):
    def build():
        import lightgbm

        x, y = data(on)
        if gaps:
            x[numpy.random.default_rng(0).random(x.shape) < 0.1] = numpy.nan
        if categories:
            x[:, :categories] = numpy.random.default_rng(1).integers(0, 12, (len(x), categories))
            y = y + (x[:, 0] % 3) * y.std()
        fit = getattr(lightgbm, f"LGBM{kind}")(random_state=0, n_jobs=1, verbose=-1, **how)
        fit.fit(x, y, **({"categorical_feature": list(range(categories))} if categories else {}))
        return tools("lightgbm", fit, x, **({} if kind == "Regressor" else {"zipmap": False}))

    return build


def boosters():
    MODELS["xgboost"] = xgboost("Classifier", "breast_cancer", n_estimators=100, max_depth=6)
    MODELS["xgboost_classes"] = xgboost("Classifier", "digits", n_estimators=100, max_depth=6)
    MODELS["xgboost_regressor"] = xgboost("Regressor", "diabetes", n_estimators=1000, max_depth=6, learning_rate=0.05)
    MODELS["xgboost_gaps"] = xgboost("Classifier", "wine", gaps=True, n_estimators=100)
    MODELS["xgboost_random_forest"] = xgboost("RFRegressor", "diabetes", n_estimators=100, max_depth=8)
    MODELS["lightgbm"] = lightgbm("Classifier", "breast_cancer", n_estimators=100)
    MODELS["lightgbm_classes"] = lightgbm("Classifier", "digits", n_estimators=100)
    MODELS["lightgbm_regressor"] = lightgbm("Regressor", "diabetes", n_estimators=1000, learning_rate=0.02)
    MODELS["lightgbm_gaps"] = lightgbm("Regressor", "diabetes", gaps=True, n_estimators=100)
    MODELS["lightgbm_categories"] = lightgbm("Regressor", "diabetes", categories=2, n_estimators=100)


def value(name, x):
    """A value as the protocol buffer that cases hold."""
    import onnx

    if isinstance(x, list) and x and isinstance(x[0], dict):
        sequence = onnx.SequenceProto(name=name, elem_type=onnx.SequenceProto.MAP)
        for row in x:
            keys = list(row)
            m = sequence.map_values.add()
            m.key_type = onnx.TensorProto.STRING if isinstance(keys[0], str) else onnx.TensorProto.INT64
            m.string_keys.extend(k.encode() for k in keys if isinstance(k, str))
            m.keys.extend(k for k in keys if not isinstance(k, str))
            m.values.elem_type = onnx.SequenceProto.TENSOR
            m.values.tensor_values.extend(onnx.numpy_helper.from_array(numpy.array(v, numpy.float32)) for v in row.values())
        return sequence
    return onnx.numpy_helper.from_array(x if x.dtype != numpy.dtype("O") else x.astype(object), name)


def session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def plain_integers():
    """Lets skl2onnx 1.20 hand out booleans and numpy's integers, which onnx 1.23 refuses as attributes."""
    import onnx

    make = onnx.helper.make_attribute

    def made(key, value, *args, **how):
        if isinstance(value, (list, tuple, numpy.ndarray)):
            value = [v.item() if isinstance(v, numpy.generic) else v for v in value]
            value = [int(v) if isinstance(v, bool) else v for v in value]
        return make(key, value, *args, **how)

    onnx.helper.make_attribute = made


def write(folder, name):
    """Trains a model and writes its case."""
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, inputs = MODELS[name]()
    case = folder / name
    case.mkdir(parents=True, exist_ok=True)
    (case / "model.onnx").write_bytes(found.SerializeToString())
    (case / "tolerance.json").write_text(json.dumps({"rtol": 1e-5, "atol": 1e-5}))
    run = session(str(case / "model.onnx"))
    # Optional initializers may stand among the inputs that the graph lists; sessions list those that have to be given.
    names = [i.name for i in run.get_inputs()]
    for k, count in enumerate((1, ROWS)):
        feeds = {n: numpy.concatenate([inputs[n]] * (count // len(inputs[n]) + 1))[:count] for n in names}
        data = case / f"test_data_set_{k}"
        data.mkdir(exist_ok=True)
        outputs = run.run(None, feeds)
        for kind, values in (("input", feeds.items()), ("output", zip([o.name for o in run.get_outputs()], outputs))):
            for i, (n, x) in enumerate(values):
                (data / f"{kind}_{i}.pb").write_bytes(value(n, x).SerializeToString())


def of_runtime(case, k):
    """The least microseconds of ONNX Runtime."""
    import onnx

    run = session(str(case / "model.onnx"))
    feeds = {}
    for i, port in enumerate(run.get_inputs()):
        t = onnx.TensorProto.FromString((case / f"test_data_set_{k}" / f"input_{i}.pb").read_bytes())
        x = onnx.numpy_helper.to_array(t)
        feeds[port.name] = numpy.array([s.decode() if isinstance(s, bytes) else s for s in x.ravel()], object).reshape(x.shape) if x.dtype == object else x
    outputs = [o.name for o in run.get_outputs()]
    least, start = float("inf"), time.time()
    while time.time() - start < 2.0:
        before = time.perf_counter()
        run.run(outputs, feeds)
        least = min(least, time.perf_counter() - before)
    return least * 1e6


def of_kiln(kiln, case, k):
    """The least microseconds of the compiled model."""
    # Cases call their files otherwise than the command does.
    with tempfile.TemporaryDirectory() as folder:
        for data in (case / f"test_data_set_{k}").glob("input_*.pb"):
            shutil.copy(data, pathlib.Path(folder) / data.name.replace("input", "in"))
        command = [kiln, "bench", case / "model.onnx", "--inputs", folder, "--threads", "1", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)["min_ms"] * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kiln", default="kiln", help="the command")
    parser.add_argument("--keep", action="store_true", help="take the cases that are there")
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    for part in (plain_integers, ensembles, linear, boosters):
        part()
    names = args.names or list(MODELS)
    if unknown := [n for n in names if n not in MODELS]:
        sys.exit(f"there is no {', '.join(unknown)} among {', '.join(MODELS)}")
    there = []
    for name in names:
        try:
            if not (args.keep and (args.folder / name / "test_data_set_1" / "output_0.pb").exists()):
                write(args.folder, name)
            there.append(name)
        except Exception as e:  # one exporter's failure is not the others'
            print(f"{name}: not exported: {str(e).splitlines()[0] if str(e) else type(e).__name__}", file=sys.stderr)
    done = subprocess.run([args.kiln, "test", "--json", *[args.folder / n for n in there]], capture_output=True, text=True)
    if done.returncode > 1:
        sys.exit(done.stderr)
    found = json.loads(done.stdout)["cases"]
    wrong = {n: r for n, r in found.items() if r != "ok"}
    print(f"{len(found) - len(wrong)} of {len(found)} models agree")
    for name, reason in wrong.items():
        print(f"  {name}: {reason}")
    if args.time:
        print("| model | Kiln, 1 row | ONNX Runtime | ratio | Kiln, 1000 rows | ONNX Runtime | ratio |\n|---|---|---|---|---|---|---|")
        for name in there:
            if name in wrong:
                continue
            case, cells = args.folder / name, []
            for k in (0, 1):
                ours, theirs = of_kiln(args.kiln, case, k), of_runtime(case, k)
                cells.append(f"{ours:.1f} | {theirs:.1f} | {ours / theirs:.2f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
