import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.util.Map;

/** One record of delivery-events: bytes in, fields out, as strict as topics/codec.py about what it doesn't know. */
final class Event {
    /** What a kind of event marks; a provider's deferral comes after it took custody (pipeline/fold.py). */
    private static final Map<String, Mark.Name> MARKS = Map.ofEntries(
        Map.entry("queued", Mark.Name.QUEUED),
        Map.entry("sent", Mark.Name.SENT),
        Map.entry("deferred", Mark.Name.DELAYED),
        Map.entry("delivered", Mark.Name.DELIVERED),
        Map.entry("opened", Mark.Name.OPENED),
        Map.entry("clicked", Mark.Name.CLICKED),
        Map.entry("bounced", Mark.Name.BOUNCED),
        Map.entry("complained", Mark.Name.COMPLAINED),
        Map.entry("dropped", Mark.Name.DROPPED),
        Map.entry("failed", Mark.Name.FAILED),
        Map.entry("unsubscribed", Mark.Name.UNSUBSCRIBED),
        Map.entry("replied", Mark.Name.REPLIED),
        Map.entry("unknown", Mark.Name.UNKNOWN));

    String emailId;
    String eventId;
    String provider;
    Mark.Name kind;
    long occurredAt;
    long recordedAt;
    String machine = "";
    String bounceClass;
    String bounceType = "";
    String bounceSubtype = "";
    long code;
    String enhanced = "";
    String text = "";
    String providerMessageId = "";

    static Event read(byte[] value) throws IOException {
        Event event = new Event();
        try (JsonParser json = Json.FACTORY.createParser(value)) {
            Json.expect(json.nextToken(), JsonToken.START_OBJECT);
            for (String name = json.nextFieldName(); name != null; name = json.nextFieldName()) {
                event.field(name, json);
            }
        }
        if (event.emailId == null || event.eventId == null || event.provider == null || event.kind == null) {
            throw new IOException("a field is missing");
        }
        return event;
    }

    private void field(String name, JsonParser json) throws IOException {
        switch (name) {
            case "type" -> Json.expect(json.nextTextValue(), "delivery-event/1");
            case "email_id" -> emailId = Json.text(json);
            case "event_id" -> eventId = Json.text(json);
            case "kind" -> kind = MARKS.get(Json.text(json));
            case "occurred_at" -> occurredAt = Json.number(json);
            case "recorded_at" -> recordedAt = Json.number(json);
            case "provider" -> provider = Json.text(json);
            case "machine" -> machine = Json.text(json);
            case "bounce_class" -> bounceClass = json.nextTextValue();
            case "bounce_type" -> bounceType = Json.text(json);
            case "bounce_subtype" -> bounceSubtype = Json.text(json);
            case "code" -> code = Json.number(json);
            case "enhanced" -> enhanced = Json.text(json);
            case "text" -> text = Json.text(json);
            case "provider_message_id" -> providerMessageId = Json.text(json);
            case "url", "user_agent" -> Json.text(json);
            case "native" -> {
                json.nextToken();
                json.skipChildren();
            }
            default -> throw new IOException("unknown field " + name);
        }
    }
}
