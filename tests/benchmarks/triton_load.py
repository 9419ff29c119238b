"""A stock ``tritonclient`` under load; runs in an environment of its own, knows nothing of ours.

    python triton_load.py ADDRESS MODEL CALLERS SECONDS   → one JSON object

Its protobuf is older than the controller's, so the two cannot be installed together.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import threading
import time

import numpy as np
import tritonclient.grpc as triton

WARM_UP = 20


def main() -> None:
    """Closed loop: every caller asks again as soon as it has its answer."""
    address, model, callers, seconds = sys.argv[1:]
    known = triton.InferenceServerClient(address)
    assert known.is_server_live()
    assert known.is_server_ready()
    assert known.is_model_ready(model)
    (taken,) = known.get_model_metadata(model).inputs
    shape = [1, *taken.shape[1:]]
    values = np.random.default_rng(7).random(shape, dtype=np.float32)
    latencies: list[int] = []
    versions: dict[str, int] = {}
    failures: list[str] = []
    lock = threading.Lock()
    ready = threading.Barrier(int(callers) + 1)

    def ask() -> None:
        client = triton.InferenceServerClient(address)
        item = triton.InferInput(taken.name, shape, taken.datatype)
        item.set_data_from_numpy(values)
        own: list[int] = []
        seen: dict[str, int] = {}
        for _ in range(WARM_UP):
            client.infer(model, [item])
        ready.wait()
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            before = time.perf_counter_ns()
            try:
                answer = client.infer(model, [item])
            except triton.InferenceServerException as error:
                failures.append(str(error))
                continue
            own.append(time.perf_counter_ns() - before)
            version = answer.get_response().model_version
            seen[version] = seen.get(version, 0) + 1
        with lock:
            latencies.extend(own)
            for version, count in seen.items():
                versions[version] = versions.get(version, 0) + count

    threads = [threading.Thread(target=ask) for _ in range(int(callers))]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    taken_s = time.monotonic() - began
    statistics = known.get_inference_statistics(model).model_stats[0]
    runs = statistics.execution_count
    found = {
        "client": f"tritonclient {importlib.metadata.version('tritonclient')}",
        "seconds": taken_s,
        "latencies_ns": latencies,
        "versions": versions,
        "failures": failures,
        "samples_a_run": statistics.inference_count / runs if runs else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
