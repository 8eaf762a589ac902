"""Only one module builds Kafka clients, so that none is without the security that the settings ask for."""

import ast
from collections.abc import Iterator

from tests.architecture.repository import ROOT, modules, text

BUILDERS = {
    "pipeline/runtime/kafka/clients.py",
    "pipeline/runtime/kafka/diagnosis.py",  # asks the brokers once more, with the same options, when a client fails
}
CLIENTS = {
    *("AIOKafkaProducer", "AIOKafkaConsumer", "AIOKafkaAdminClient", "AIOKafkaClient"),
    *("create_conn", "AIOKafkaConnection"),
}


def built_clients(source: str) -> Iterator[str]:
    """Yield the classes of Kafka clients that the source calls, and subclasses."""
    for node in ast.walk(ast.parse(source)):
        named = [node.func] if isinstance(node, ast.Call) else node.bases if isinstance(node, ast.ClassDef) else []
        for found in named:
            name = found.attr if isinstance(found, ast.Attribute) else getattr(found, "id", "")
            if name in CLIENTS:
                yield name


def test_kafka_clients_are_built_in_one_module() -> None:
    names = [str(path.relative_to(ROOT)) for path in modules()]
    product = [name for name in names if not name.startswith(("tests/", "bench/"))]
    assert {name for name in product if list(built_clients(text(name)))} == BUILDERS


def test_client_that_is_built_elsewhere_is_found() -> None:
    assert list(built_clients("import aiokafka\nreader = aiokafka.AIOKafkaConsumer('topic')")) == ["AIOKafkaConsumer"]
    assert list(built_clients("class Mine(AIOKafkaProducer):\n    pass")) == ["AIOKafkaProducer"]
    assert list(built_clients("def run(reader: AIOKafkaConsumer) -> None: ...")) == []
