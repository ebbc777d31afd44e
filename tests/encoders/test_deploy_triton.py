"""What ``t2i export --triton`` writes: Triton's own schema reads it, ONNX Runtime runs what it declares."""

import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from clips import PICTURES, TEXTS, cosines, transformers_clip
from google.protobuf import text_format
from onnx_folders import immich_folder, transformers_js_folder
from tokenizers import Tokenizer
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup
from typer.testing import CliRunner

from t2i_pipelines.cli import app
from t2i_pipelines.encoders import load_encoder, triton
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.triton import write_triton
from t2i_pipelines.errors import CheckpointError, ConfigError, MissingExtraError

# Triton's documentation, "Datatypes": of model configuration, of ONNX Runtime, of numpy
TYPES = {
    "TYPE_FP32": ("tensor(float)", np.float32),
    "TYPE_INT32": ("tensor(int32)", np.int32),
    "TYPE_INT64": ("tensor(int64)", np.int64),
}


def config_of(model) -> ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)


class Served:
    """Stands where Triton would: gives a tower what its configuration declares, and nothing else."""

    def __init__(self, repository, name):
        self.config = config_of(repository / name)
        self.session = onnxruntime.InferenceSession(repository / name / "1/model.onnx")
        for declared, given in (
            (self.config.input, self.session.get_inputs()),
            (self.config.output, self.session.get_outputs()),
        ):
            wanted = [(one.name, TYPES[self.type_of(one)][0], len(one.dims) + 1) for one in declared]
            assert wanted == [(one.name, one.type, len(one.shape)) for one in given]

    @staticmethod
    def type_of(one):
        return type(one).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[one.data_type].name

    def __call__(self, items):
        (asked,), (given,) = self.config.input, self.config.output
        assert len(items) <= self.config.max_batch_size
        assert len(items.shape) == 1 + len(asked.dims)
        assert all(dim in (-1, size) for dim, size in zip(asked.dims, items.shape[1:], strict=True))
        items = items.astype(TYPES[self.type_of(asked)][1])
        (vectors,) = self.session.run([given.name], {asked.name: items})
        assert vectors.dtype == TYPES[self.type_of(given)][1]
        assert vectors.shape == (len(items), *given.dims)
        return vectors


def ids_of(repository, texts):
    read = Tokenizer.from_file(str(repository / "text_tower/tokenizer.json")).encode_batch(texts)
    return np.array([one.ids for one in read])


@pytest.mark.slow
def test_what_is_declared_runs_and_gives_our_vectors(tmp_path):
    done = export("t2i_mini", "--triton", tmp_path / "triton")
    assert done.exit_code == 0, done.output
    assert f"run: tritonserver --model-repository {tmp_path}/triton" in done.output
    encoder = load_encoder("t2i_mini", precision="fp32", backend="onnxruntime")
    image, text = Served(tmp_path / "triton", "image_tower"), Served(tmp_path / "triton", "text_tower")
    assert list(image.config.input[0].dims) == [3, 128, 128]
    for many in (1, 4):  # what dynamic batching makes of requests
        pictures, words = PICTURES[:many], ["a dog on grass", "un gatto", "eine Katze", "狗"][:many]
        assert cosines(image(encoder.tensor(pictures)), encoder.encode_images(pictures)).min() > 0.999999
        vectors = text(ids_of(tmp_path / "triton", words))
        assert cosines(vectors, encoder.encode_texts(words)).min() > 0.999999


def test_the_configuration_batches_dynamically(tmp_path):
    write_triton(load_encoder("t2i_mini"), tmp_path / "triton")
    for name in ("image_tower", "text_tower"):
        config = config_of(tmp_path / "triton" / name)
        assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", 64)
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        (group,) = config.instance_group
        assert (group.kind, group.count) == (ModelInstanceGroup.KIND_CPU, 1)


def test_the_repository_holds_the_towers_what_feeds_them_and_no_pickle(tmp_path):
    write_triton(load_encoder("t2i_mini"), tmp_path / "triton")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "triton/image_tower/config.pbtxt",
        "triton/image_tower/1/model.onnx",
        "triton/image_tower/preprocess_cfg.json",
        "triton/text_tower/config.pbtxt",
        "triton/text_tower/1/model.onnx",
        "triton/text_tower/config.json",
        "triton/text_tower/tokenizer.json",
        "triton/text_tower/tokenizer_config.json",
    }


def test_for_a_gpu_the_first_one_is_named(tmp_path):
    assert export("t2i_mini", "--triton", tmp_path / "triton", "--device", "cuda").exit_code == 0
    (group,) = config_of(tmp_path / "triton/image_tower").instance_group
    assert (group.kind, list(group.gpus)) == (ModelInstanceGroup.KIND_GPU, [0])


@pytest.mark.slow
def test_a_torch_checkpoint_is_exported_first(tmp_path):
    transformers_clip(tmp_path / "m", "gelu")
    done = export(tmp_path / "m", "--triton", tmp_path / "triton")
    assert done.exit_code == 0, done.output
    encoder = load_encoder(tmp_path / "m", precision="fp32")
    image, text = Served(tmp_path / "triton", "image_tower"), Served(tmp_path / "triton", "text_tower")
    pixels = encoder.model.checkpoint.preprocess.tensor(PICTURES)
    assert cosines(image(pixels), encoder.encode_images(PICTURES)).min() > 0.99999
    assert cosines(text(encoder.tokenizer(TEXTS)), encoder.encode_texts(TEXTS)).min() > 0.99999


def test_a_tower_that_takes_any_length_says_so(tmp_path):
    folder = immich_folder(tmp_path / "m", batch="batch")
    model = onnx.load(folder / "textual/model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    onnx.save(model, folder / "textual/model.onnx")
    write_triton(OnnxEncoder(str(folder), "any"), tmp_path / "triton")
    text = Served(tmp_path / "triton", "text_tower")
    assert list(text.config.input[0].dims) == [-1]
    assert text(np.array([[1, 2, 3, 0, 0]])).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("how", [{"location": "model.onnx.data"}, {"all_tensors_to_one_file": False}])
def test_weights_beside_a_large_tower_come_along(tmp_path, how):
    folder = immich_folder(tmp_path / "m", batch="batch")
    model = onnx.load(folder / "visual/model.onnx")
    for one in model.graph.initializer:  # only raw data can lie outside
        one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one), one.name))
    onnx.save_model(model, folder / "visual/model.onnx", save_as_external_data=True, size_threshold=0, **how)
    write_triton(OnnxEncoder(str(folder), "large"), tmp_path / "triton")
    shutil.rmtree(folder)
    pixels = np.ones((2, 3, 8, 8)) * np.arange(1, 4)[:, None, None]
    assert Served(tmp_path / "triton", "image_tower")(pixels).tolist() == [[1, 2, 3]] * 2


def fixed(folder):
    immich_folder(folder, batch=1)
    return rf"{folder}/visual/model\.onnx takes 1 item\(s\) a pass, and Triton cannot batch that; name"


def damaged(folder):
    immich_folder(folder, batch="batch")
    (folder / "textual/model.onnx").write_bytes(b"not a model")
    return rf"{folder}/textual/model\.onnx cannot be loaded"


def of_another_layout(folder):
    transformers_js_folder(folder)
    return rf"{folder} has no visual/model\.onnx, textual/model\.onnx: .* name the model's torch checkpoint"


def of_another_type(folder):
    immich_folder(folder, batch="batch", ids=onnx.TensorProto.INT16)
    return rf"text of {folder}/textual/model\.onnx is INT16, which is none of FLOAT, FLOAT16, INT32, INT64"


@pytest.mark.parametrize("spoil", [fixed, damaged, of_another_type, of_another_layout])
def test_what_triton_cannot_serve_is_refused_and_nothing_is_written(tmp_path, spoil):
    message = spoil(tmp_path / "m")
    with pytest.raises(CheckpointError, match=message):
        write_triton(OnnxEncoder(str(tmp_path / "m"), "m"), tmp_path / "triton")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_towhee_cannot_write_is_said_with_its_reason(tmp_path, monkeypatch):
    def full(self, _, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton.OnnxTower, "save_model", full)
    with pytest.raises(CheckpointError, match="Towhee cannot write .*image_tower.* No space left"):
        write_triton(load_encoder("t2i_mini"), tmp_path / "triton")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path} is not empty; name a new folder")):
        write_triton(load_encoder("t2i_mini"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_absent_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(triton, "find_spec", lambda name: None if name == "dill" else name)
    with pytest.raises(MissingExtraError, match=r"dill is not installed; run: pip install 't2i-pi.*triton\]"):
        write_triton(load_encoder("t2i_mini"), tmp_path / "triton")


@pytest.mark.parametrize("arguments", [["t2i_mini"], ["t2i_mini", "folder", "--triton", "other"]])
def test_one_of_two_things_is_written(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="name either a folder, as in t2i export MODEL FOLDER, or --triton"):
        export(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_triton_does_not_know_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--device must be cpu or cuda, got 'auto'"):
        export("t2i_mini", "--triton", tmp_path / "triton", "--device", "auto")
