"""Our partitioner gives the same partitions as Kafka's default one, which all clients use."""

import uuid

from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.kafka.partitioner import murmur2, partition_of_key
from topics import ids


@given(st.binary(max_size=80))
def test_murmur2_equals_aiokafka(key: bytes) -> None:
    assert murmur2(key) == theirs(key) & 0xFFFFFFFF


@given(st.uuids(), st.integers(1, 512))
def test_partition_of_email_equals_aiokafka(identifier: uuid.UUID, count: int) -> None:
    numbers = list(range(count))
    key = str(identifier).encode()
    assert partition_of_key(key, count) == DefaultPartitioner()(key, numbers, numbers)


@given(st.text(), st.text(), st.integers(0, 200))
def test_email_id_is_uuid5_of_its_name(tenant: str, identity: str, ordinal: int) -> None:
    name = "email" + "".join(f"|{len(part)}:{part}" for part in (tenant, "fasttrack", identity, str(ordinal)))
    assert ids.email_id(tenant, "fasttrack", identity, ordinal) == str(uuid.uuid5(ids.NAMESPACE, name))
