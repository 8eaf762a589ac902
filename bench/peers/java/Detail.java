import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.Locale;
import java.util.Set;

/** The words that came with a bounce, complaint, drop or failure; which one stays is topics/join.py's order. */
record Detail(
    long at, long recorded, String eventId, String type, String subtype, long code, String enhanced, String text,
    String provider, String bounceClass) {

    private static final Set<String> HARD_ENHANCED =
        Set.of("5.1.0", "5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.2.1");
    private static final Set<Long> HARD_CODES = Set.of(521L, 550L, 551L, 553L, 556L);

    /** The details, each with the mark that it belongs to. */
    enum Name {
        BOUNCE(Mark.Name.BOUNCED), COMPLAINT(Mark.Name.COMPLAINED), DROP(Mark.Name.DROPPED), FAILURE(Mark.Name.FAILED);

        static final Name[] ALL = values();
        final String json = name().toLowerCase(Locale.ROOT);
        final Mark.Name mark;

        Name(Mark.Name mark) {
            this.mark = mark;
        }
    }

    static Detail of(Event event, Name name) {
        String told = event.bounceClass != null ? event.bounceClass : bounceClass(event.code, event.enhanced);
        return new Detail(
            Math.min(event.occurredAt, event.recordedAt), event.recordedAt, event.eventId, event.bounceType,
            event.bounceSubtype, event.code, event.enhanced, event.text, event.provider,
            name == Name.BOUNCE ? told : null);
    }

    private static String bounceClass(long code, String enhanced) {
        if (!enhanced.isEmpty() && !enhanced.endsWith(".0.0")) {
            return HARD_ENHANCED.contains(enhanced) ? "hard" : "soft";
        }
        return HARD_CODES.contains(code) ? "hard" : "soft";
    }

    /** A hard bounce's, then the earliest, then the smallest as bytes. */
    Detail stronger(Detail other) {
        int order = Boolean.compare(!"hard".equals(bounceClass), !"hard".equals(other.bounceClass));
        order = order != 0 ? order : Long.compare(at, other.at);
        order = order != 0 ? order : Long.compare(recorded, other.recorded);
        order = order != 0 ? order : Arrays.compareUnsigned(bytes(), other.bytes());
        return order <= 0 ? this : other;
    }

    private byte[] bytes() {
        ByteArrayOutputStream out = new ByteArrayOutputStream(256);
        try (JsonGenerator json = Json.FACTORY.createGenerator(out)) {
            write(json);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return out.toByteArray();
    }

    void write(JsonGenerator json) throws IOException {
        json.writeStartArray();
        json.writeNumber(at);
        json.writeNumber(recorded);
        json.writeString(eventId);
        json.writeString(type);
        json.writeString(subtype);
        json.writeNumber(code);
        json.writeString(enhanced);
        json.writeString(text);
        json.writeString(provider);
        json.writeString(bounceClass);
        json.writeEndArray();
    }

    static Detail read(JsonParser json) throws IOException {
        Json.expect(json.nextToken(), JsonToken.START_ARRAY);
        Detail detail = new Detail(
            Json.number(json), Json.number(json), Json.text(json), Json.text(json), Json.text(json), Json.number(json),
            Json.text(json), Json.text(json), Json.text(json), json.nextTextValue());
        Json.expect(json.nextToken(), JsonToken.END_ARRAY);
        return detail;
    }
}
