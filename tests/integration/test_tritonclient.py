"""A stock client of the Open Inference Protocol against our socket, unchanged.

It needs an older protobuf than the controller, so it lives in an environment of its own, which
``make test`` makes. Where that cannot be done, the generated stubs of the other tests speak for it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import stock_client
from tests.integration import serving_models as shop
from tests.integration import worker_models as models

PYTHON = stock_client.python()
SCRIPT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
inputs = np.load(sys.argv[2])
told = client.get_model_metadata("shoes")
item = triton.InferInput("x", inputs.shape, "FP32")
item.set_data_from_numpy(inputs)
wanted = [triton.InferRequestedOutput("y")]
answer = client.infer("shoes", [item], outputs=wanted, request_id="7", client_timeout=20)
later = []
client.async_infer("shoes", [item], lambda result, error: later.append((result, error)))
found = {
    "live": client.is_server_live(), "ready": client.is_server_ready(),
    "model": client.is_model_ready("shoes"), "other": client.is_model_ready("hats"),
    "server": client.get_server_metadata().name, "datatype": told.inputs[0].datatype,
    "id": answer.get_response().id, "outputs": answer.as_numpy("y").tolist(),
    "requests": client.get_inference_statistics("shoes").model_stats[0].inference_count // 3,
}
try:
    client.infer("hats", [item])
except triton.InferenceServerException as error:
    found["status"] = error.status()
while not later:
    pass
found["async"] = later[0][0].as_numpy("y").tolist()
print(json.dumps(found))
"""


@pytest.mark.skipif(PYTHON is None, reason=f"no stock client: {stock_client.why_not()}")
def test_a_stock_client_works_unchanged(tmp_path: Path) -> None:
    models.affine_bundle(tmp_path / "a", shop.FLOAT)
    inputs = models.affine_inputs(3)
    np.save(tmp_path / "x.npy", inputs)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    with shop.offered(tmp_path / "a", tmp_path / "g"):
        command = [str(PYTHON), "-c", SCRIPT, f"unix:{tmp_path / 'g'}", str(tmp_path / "x.npy")]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert np.allclose(found.pop("outputs"), models.affine(inputs), atol=1e-5)
    assert np.allclose(found.pop("async"), models.affine(inputs), atol=1e-5)
    assert found.pop("requests") in {1, 2}
    assert found == {
        "live": True, "ready": True, "model": True, "other": False, "server": "fitment-agent",
        "datatype": "FP32", "id": "7", "status": "StatusCode.NOT_FOUND",
    }  # fmt: skip
