import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/** Events in, a line each; each email's state out, a line each: shows that the two folds are one. */
final class Lines {
    private Lines() {
    }

    public static void main(String[] arguments) throws IOException {
        Map<String, byte[]> states = new LinkedHashMap<>();
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            Event event = Event.read(line.getBytes(StandardCharsets.UTF_8));
            byte[] stored = states.get(event.emailId);
            states.put(event.emailId, State.evolve(stored == null ? null : State.read(stored), event).write());
        }
        for (byte[] state : states.values()) {
            System.out.write(state);
            System.out.write('\n');
        }
        System.out.flush();
    }
}
