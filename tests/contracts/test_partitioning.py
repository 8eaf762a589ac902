"""Our partitions are those of Kafka's default partitioner, as aiokafka and every other client knows it."""

import uuid

from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as theirs
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.partitioner import murmur2, partition_of_key
from topics import ids


@given(st.binary(max_size=80))
def test_the_hash_is_the_same(key: bytes) -> None:
    assert murmur2(key) == theirs(key) & 0xFFFFFFFF


@given(st.uuids(), st.integers(1, 512))
def test_an_email_s_partition_is_the_same(identifier: uuid.UUID, count: int) -> None:
    numbers = list(range(count))
    key = str(identifier).encode()
    assert partition_of_key(key, count) == DefaultPartitioner()(key, numbers, numbers)


@given(st.text(), st.text(), st.integers(0, 200))
def test_an_email_id_is_the_uuid_5_of_its_name(tenant: str, identity: str, ordinal: int) -> None:
    name = "email" + "".join(f"|{len(part)}:{part}" for part in (tenant, "fasttrack", identity, str(ordinal)))
    assert ids.email_id(tenant, "fasttrack", identity, ordinal) == str(uuid.uuid5(ids.NAMESPACE, name))
