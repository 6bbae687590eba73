"""Every peer."""

from __future__ import annotations

from benchmarks.serving.peers.bentoml.peer import PEER as BENTOML
from benchmarks.serving.peers.fastapi_onnx.peer import PEER as FASTAPI_ONNX
from benchmarks.serving.peers.fastapi_st.peer import PEER as FASTAPI_ST
from benchmarks.serving.peers.infinity.peer import PEER as INFINITY
from benchmarks.serving.peers.litserve.peer import PEER as LITSERVE
from benchmarks.serving.peers.mlserver.peer import PEER as MLSERVER
from benchmarks.serving.peers.ray_serve.peer import PEER as RAY_SERVE

PEERS = (MLSERVER, BENTOML, LITSERVE, FASTAPI_ONNX, RAY_SERVE, INFINITY, FASTAPI_ST)
