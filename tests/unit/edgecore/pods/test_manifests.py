"""What is wrong with a static pod's file, in words and by line."""

import json

import pytest

from edgecore.pods.manifests import MAX_BYTES, BadManifest, parse, read

HEAD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: app\n    image: x\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "it is empty"),
        ("[1]", 0, "no object"),
        ("a: 1\n b: [", 2, "it is no YAML"),
        ("apiVersion: apps/v1\nkind: Deployment\n", 1, "apps/v1 Deployment, not a v1 Pod"),
        (HEAD + "---\n" + HEAD, 9, "2 documents"),
        (HEAD + "    colour: red\n", 8, 'unknown field "spec.containers[0].colour"'),
        (HEAD.replace("image: x", "image: [x]"), 7, "must be of type string"),
        (HEAD.replace("name: app", "name: App"), 6, "RFC 1123 label"),
        (HEAD.replace("{name: web}", "{}"), 3, "name"),
        (HEAD + "    envFrom:\n    - secretRef: {name: s}\n", 9, "refers to none of its objects"),
        (HEAD + "  serviceAccountName: robot\n", 8, "serviceAccountName"),
        ("{\n  'a'", 2, "it is no JSON"),
        ("\xff", 0, "no object"),
        ("[" * 5000, 0, "deep"),
    ],
)
def test_a_bad_file_is_explained(text: str, line: int, words: str) -> None:
    with pytest.raises(BadManifest) as caught:
        read(text.encode())

    assert words in caught.value.message
    assert line in {0, caught.value.line}


def test_bytes_that_are_no_text_are_named_by_line() -> None:
    with pytest.raises(BadManifest, match="it is not UTF-8") as caught:
        read(b"a: 1\nb: \xff\n")

    assert caught.value.line == 2


def test_a_file_that_is_too_large_is_not_read() -> None:
    with pytest.raises(BadManifest, match="larger than"):
        read(b"#" * (MAX_BYTES + 1))


async def test_json_is_as_good_as_yaml_and_the_child_says_the_same() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "app", "image": "x"}]},
    }

    answer = await parse(json.dumps(document).encode())

    assert answer == read(HEAD.encode())
    assert answer.pod["spec"]["dnsPolicy"] == "ClusterFirst"


async def test_yaml_that_wants_all_memory_is_refused_in_a_sentence() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: app, image: x, command: *a8}}]}}\n{bomb}"

    with pytest.raises(BadManifest):
        await parse((bomb + text.replace(bomb, "")).encode())
