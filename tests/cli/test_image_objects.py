"""``--object`` of ``blkxact image``: credentials and throttle groups, beside ``qemu-img``."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import image, new_image
from tests.nbd.certificates import pki
from tests.nbd.peers import nbdkit
from tests.nbd.process import run

__all__ = ["pki"]

GROUP = "throttle-group,id=g,x-bps-total=1048576000"


@pytest.mark.nbd
@pytest.mark.qemu
def test_image_on_a_server_with_tls_is_used_as_by_qemu_img(image_dir: Path, pki: Path) -> None:
    words = [f"--tls-certificates={pki}", "--tls-verify-peer", "--tls=require", "pattern", "1M"]
    creds = ["--object", f"tls-creds-x509,id=t,endpoint=client,dir={pki}"]
    copy = image_dir / "copy.qcow2"
    with nbdkit(image_dir, *words) as peer:
        export = f"driver=nbd,server.type=unix,server.path={peer.path}"
        tls = f"{export},tls-creds=t,tls-hostname=localhost"
        for verb in ("info", "map"):
            same = [verb, *creds, "--image-opts", tls]
            assert image(*same) == run("qemu-img", *same)
        image("convert", *creds, "--image-opts", tls, "-O", "qcow2", copy)
        image("compare", *creds, "--image-opts", tls, f"driver=qcow2,file.filename={copy}")
        refusal = assert_refused(blkxact("image", "info", "--image-opts", tls))
        assert "No TLS credentials with id 't'" in refusal
        assert "TLS" in assert_refused(blkxact("image", "info", *creds, "--image-opts", export))


@pytest.mark.qemu
@pytest.mark.parametrize("verb", ["info", "check", "map"])
def test_image_below_a_throttle_filter_is_that_of_qemu_img(image_dir: Path, verb: str) -> None:
    path = new_image(image_dir / "a", "1M", "write 0 64k")
    options = f"driver=qcow2,file.driver=throttle,file.throttle-group=g,file.file.filename={path}"
    options = options.replace("file.file.filename", "file.file.driver=file,file.file.filename")
    words = [verb, "--object", GROUP, "--image-opts", options]
    assert sorted(image(*words).splitlines()) == sorted(run("qemu-img", *words).splitlines())


@pytest.mark.parametrize("verb", ["bitmap --add", "chain show", "create", "resize"])
def test_every_verb_takes_objects(image_dir: Path, verb: str) -> None:
    path = new_image(image_dir / "a", "1M")
    words = [
        "--object",
        GROUP,
        path,
        *({"bitmap --add": ["b"], "create": ["1M"], "resize": ["2M"]}.get(verb, [])),
    ]
    start = verb.split() if verb.startswith("chain") else ["image", *verb.split()]
    done = blkxact(*start, *words)
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("throttle-group", "Parameter 'id' is missing"),
        ("throttle-group,id=1", "Parameter 'id' expects an identifier"),
        ("nosuch,id=a", "Parameter 'qom-type' does not accept value 'nosuch'"),
        ("tls-creds-x509,id=a,endpoint=client,dir=/nowhere", "ca-cert.pem"),
    ],
)
def test_object_that_cannot_be_is_one_line_of_error(
    image_dir: Path, text: str, refusal: str
) -> None:
    path = new_image(image_dir / "a", "1M")
    assert refusal in assert_refused(blkxact("image", "info", "--object", text, path))
