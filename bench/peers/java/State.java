import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** All that delivery events tell of one email, and the fold of one more: pipeline/fold.py in Java. */
final class State {
    private static final Map<String, Mark.Name> MARKS = new HashMap<>();
    private static final Map<String, Detail.Name> DETAILS = new HashMap<>();

    static {
        Arrays.stream(Mark.Name.ALL).forEach(name -> MARKS.put(name.json, name));
        Arrays.stream(Detail.Name.ALL).forEach(name -> DETAILS.put(name.json, name));
    }

    private String emailId;
    private final Mark[] marks = new Mark[Mark.Name.ALL.length];
    private final Detail[] details = new Detail[Detail.Name.ALL.length];
    private List<ProviderId> providerIds = List.of();

    /** The state of everything in {@code state} (null: nothing yet, else changed in place) and {@code event}. */
    static State evolve(State state, Event event) {
        State grown = state == null ? new State() : state;
        if (state == null) {
            grown.emailId = event.emailId;
        } else if (!state.emailId.equals(event.emailId)) {
            throw new IllegalArgumentException("an event of another email");
        }
        grown.absorb(event);
        return grown;
    }

    private void absorb(Event event) {
        Mark.Name name = event.machine.isEmpty() ? event.kind : event.kind.byMachine();
        Mark before = marks[name.ordinal()];
        marks[name.ordinal()] = before == null ? Mark.of(event) : before.join(Mark.of(event));
        for (Detail.Name detail : Detail.Name.ALL) {
            if (detail.mark == name) {
                Detail told = Detail.of(event, detail);
                Detail known = details[detail.ordinal()];
                details[detail.ordinal()] = known == null ? told : known.stronger(told);
            }
        }
        if (!event.providerMessageId.isEmpty()) {
            providerIds = ProviderId.join(providerIds, new ProviderId(event.provider, event.providerMessageId));
        }
    }

    byte[] write() throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream(512);
        try (JsonGenerator json = Json.FACTORY.createGenerator(out)) {
            json.writeStartObject();
            json.writeStringField("type", "email-state/1");
            json.writeStringField("email_id", emailId);
            for (Mark.Name name : Mark.Name.ALL) {
                if (marks[name.ordinal()] != null) {
                    json.writeFieldName(name.json);
                    writeMark(json, marks[name.ordinal()]);
                }
            }
            for (Detail.Name name : Detail.Name.ALL) {
                if (details[name.ordinal()] != null) {
                    json.writeFieldName(name.json);
                    details[name.ordinal()].write(json);
                }
            }
            writeProviderIds(json);
            json.writeEndObject();
        }
        return out.toByteArray();
    }

    private static void writeMark(JsonGenerator json, Mark mark) throws IOException {
        json.writeStartArray();
        json.writeNumber(mark.first());
        json.writeNumber(mark.last());
        json.writeNumber(mark.recorded());
        json.writeArray(mark.ids(), 0, mark.ids().length);
        json.writeEndArray();
    }

    private void writeProviderIds(JsonGenerator json) throws IOException {
        if (providerIds.isEmpty()) {
            return;
        }
        json.writeArrayFieldStart("provider_ids");
        for (ProviderId one : providerIds) {
            json.writeStartArray();
            json.writeString(one.provider());
            json.writeString(one.id());
            json.writeEndArray();
        }
        json.writeEndArray();
    }

    static State read(byte[] value) throws IOException {
        State state = new State();
        try (JsonParser json = Json.FACTORY.createParser(value)) {
            Json.expect(json.nextToken(), JsonToken.START_OBJECT);
            for (String name = json.nextFieldName(); name != null; name = json.nextFieldName()) {
                state.field(name, json);
            }
        }
        return state;
    }

    private void field(String name, JsonParser json) throws IOException {
        if (MARKS.containsKey(name)) {
            marks[MARKS.get(name).ordinal()] = readMark(json);
        } else if (DETAILS.containsKey(name)) {
            details[DETAILS.get(name).ordinal()] = Detail.read(json);
        } else if (name.equals("provider_ids")) {
            providerIds = readProviderIds(json);
        } else if (name.equals("email_id")) {
            emailId = Json.text(json);
        } else if (name.equals("type")) {
            Json.expect(json.nextTextValue(), "email-state/1");
        } else {
            throw new IOException("unknown field " + name);
        }
    }

    private static Mark readMark(JsonParser json) throws IOException {
        Json.expect(json.nextToken(), JsonToken.START_ARRAY);
        long first = Json.number(json);
        long last = Json.number(json);
        long recorded = Json.number(json);
        Json.expect(json.nextToken(), JsonToken.START_ARRAY);
        long[] ids = new long[4];
        int count = 0;
        while (json.nextToken() == JsonToken.VALUE_NUMBER_INT) {
            ids = count == ids.length ? Arrays.copyOf(ids, 2 * count) : ids;
            ids[count++] = json.getLongValue();
        }
        Json.expect(json.nextToken(), JsonToken.END_ARRAY);
        return new Mark(first, last, recorded, Arrays.copyOf(ids, count));
    }

    private static List<ProviderId> readProviderIds(JsonParser json) throws IOException {
        List<ProviderId> found = new ArrayList<>(2);
        Json.expect(json.nextToken(), JsonToken.START_ARRAY);
        while (json.nextToken() == JsonToken.START_ARRAY) {
            found.add(new ProviderId(Json.text(json), Json.text(json)));
            Json.expect(json.nextToken(), JsonToken.END_ARRAY);
        }
        return found;
    }
}
