import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.json.JsonWriteFeature;
import java.io.IOException;

/** Jackson's streaming API, the fastest it has, set to write the very bytes that our codec writes. */
final class Json {
    static final JsonFactory FACTORY = JsonFactory.builder()
        .disable(JsonWriteFeature.WRITE_HEX_UPPER_CASE)
        .enable(JsonWriteFeature.COMBINE_UNICODE_SURROGATES_IN_UTF8)
        .build();

    private Json() {
    }

    static String text(JsonParser json) throws IOException {
        String found = json.nextTextValue();
        if (found == null) {
            throw new IOException("no text: " + json.currentToken());
        }
        return found;
    }

    static long number(JsonParser json) throws IOException {
        expect(json.nextToken(), JsonToken.VALUE_NUMBER_INT);
        return json.getLongValue();
    }

    static void expect(Object found, Object wanted) throws IOException {
        if (!wanted.equals(found)) {
            throw new IOException(found + " instead of " + wanted);
        }
    }
}
