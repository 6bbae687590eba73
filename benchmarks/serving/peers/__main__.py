"""``python -m benchmarks.serving.peers install|verify [NAME ...]``: make the environments, try each peer."""

from __future__ import annotations

import argparse
import os
import sys
import time

from benchmarks.serving.load import closed_loop, run_load
from benchmarks.serving.peers.catalogue import PEERS
from benchmarks.serving.peers.model import prepare
from benchmarks.serving.peers.peer import Peer, running_peer
from benchmarks.texts import short_texts


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.serving.peers", description=__doc__)
    parser.add_argument("action", choices=("install", "verify"))
    parser.add_argument(
        "names", nargs="*", help=f"any of {', '.join(p.folder for p in PEERS)}; all when not given"
    )
    chosen = parser.parse_args()
    unknown = set(chosen.names) - {peer.folder for peer in PEERS}
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    prepare()
    failed = 0
    for peer in PEERS:
        if chosen.names and peer.folder not in chosen.names:
            continue
        try:
            install(peer) if chosen.action == "install" else verify(peer)
        except (RuntimeError, OSError) as error:
            failed += 1
            print(f"{peer.name}: {error}", file=sys.stderr)
    return 1 if failed else 0


def install(peer: Peer) -> None:
    if not peer.is_installed:
        started = time.perf_counter()
        peer.install()
        print(f"{peer.name}: installed in {time.perf_counter() - started:.0f} s", flush=True)
    print(f"{peer.name}: {peer.versions()}", flush=True)


def verify(peer: Peer) -> None:
    """Check a peer's vectors and send it a few seconds of load."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    try:
        with running_peer(peer, [cores[0]]) as running:
            least = running.verify()
            wire = [running.request([text]) for text in short_texts(512)[1]]
            print(f"{peer.name}: first answer {running.started_s:.1f} s, least cosine {least:.4f}", flush=True)
            for connections in (1, 32):
                run = run_load(closed_loop(running.target, wire, connections, seconds=2))
                print(f"  c{connections}: {run.summary()}", flush=True)
            print(f"  memory {running.memory_bytes() / 1e6:.0f} MB", flush=True)
    finally:
        os.sched_setaffinity(0, cores)


sys.exit(main())
