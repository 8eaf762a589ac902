import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/** Events in, states in RocksDB out: Kafka Streams as its documentation shows it, one thread, one aggregate. */
final class Peer {
    private static final AtomicLong FOLDED = new AtomicLong();

    private Peer() {
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> env = System.getenv();
        String warmTopic = env.getOrDefault("PEER_WARM_TOPIC", "");
        Path folder = Path.of(env.get("PEER_FOLDER"));
        if (!warmTopic.isEmpty()) {
            warm(env, warmTopic, folder);
            Files.createFile(folder.resolve("ready"));
            until(() -> Files.exists(folder.resolve("go")));
        }
        KafkaStreams streams = start(env, env.get("PEER_TOPIC"), env.get("PEER_GROUP"), folder.resolve("states"));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(8))));
    }

    /**
     * The JIT compiles what runs often: a first pass over other traffic makes it compile before anybody measures.
     * In a group of its own, so that no other process takes a part of it.
     */
    private static void warm(Map<String, String> env, String topic, Path folder) throws Exception {
        long total = size(env, topic);
        KafkaStreams streams = start(env, topic, env.get("PEER_GROUP") + "-warm-" + ProcessHandle.current().pid(), folder.resolve("warm"));
        until(() -> FOLDED.get() >= total);
        streams.close();
        streams.cleanUp();
    }

    private static long size(Map<String, String> env, String topic) throws Exception {
        int partitions = Integer.parseInt(env.get("PEER_PARTITIONS"));
        Map<TopicPartition, OffsetSpec> wanted = IntStream.range(0, partitions).boxed()
            .collect(Collectors.toMap(number -> new TopicPartition(topic, number), number -> OffsetSpec.latest()));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", env.get("PEER_BOOTSTRAP")))) {
            return admin.listOffsets(wanted).all().get().values().stream().mapToLong(found -> found.offset()).sum();
        }
    }

    private static KafkaStreams start(Map<String, String> env, String topic, String group, Path folder) {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, group);
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("PEER_BOOTSTRAP"));
        properties.put(StreamsConfig.STATE_DIR_CONFIG, folder.toString());
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, env.get("PEER_GUARANTEE"));
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Math.round(1000 * Double.parseDouble(env.get("PEER_COMMIT"))));
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        properties.put("auto.offset.reset", "earliest");
        // A closed Streams client stays in its group until its session runs out.
        properties.put("session.timeout.ms", "10000");
        KafkaStreams streams = new KafkaStreams(topology(topic), properties);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(1);
            }
        });
        streams.start();
        return streams;
    }

    private static Topology topology(String topic) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.String(), EVENTS))
            .groupByKey()
            .aggregate(
                () -> null,
                (key, event, state) -> {
                    FOLDED.lazySet(FOLDED.get() + 1);
                    return State.evolve(state, event);
                },
                Materialized.<String, State, KeyValueStore<Bytes, byte[]>>as("states")
                    .withKeySerde(Serdes.String())
                    .withValueSerde(STATES));
        return builder.build();
    }

    private static final Serde<Event> EVENTS = Serdes.serdeFrom(
        (topic, event) -> {
            throw new UnsupportedOperationException("events are only read");
        },
        (topic, value) -> unchecked(() -> Event.read(value)));

    private static final Serde<State> STATES = Serdes.serdeFrom(
        (topic, state) -> state == null ? null : unchecked(state::write),
        (topic, value) -> value == null ? null : unchecked(() -> State.read(value)));

    private interface Reading<T> {
        T now() throws IOException;
    }

    private static <T> T unchecked(Reading<T> reading) {
        try {
            return reading.now();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static void until(java.util.function.BooleanSupplier done) throws InterruptedException {
        while (!done.getAsBoolean()) {
            Thread.sleep(20);
        }
    }
}
