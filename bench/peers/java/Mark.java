import java.util.Arrays;
import java.util.Locale;

/** When one kind of event was heard, and how often; joined as topics/join.py joins. */
record Mark(long first, long last, long recorded, long[] ids) {
    private static final int SKETCH = 32;

    /** The marks that delivery events can set. */
    enum Name {
        QUEUED, SENT, DELAYED, DELIVERED, OPENED, OPENED_MACHINE, CLICKED, CLICKED_MACHINE, BOUNCED, COMPLAINED, DROPPED,
        FAILED, UNSUBSCRIBED, REPLIED, UNKNOWN;

        static final Name[] ALL = values();
        final String json = name().toLowerCase(Locale.ROOT);

        Name byMachine() {
            return this == OPENED ? OPENED_MACHINE : this == CLICKED ? CLICKED_MACHINE : this;
        }
    }

    static Mark of(Event event) {
        long at = Math.min(event.occurredAt, event.recordedAt);
        return new Mark(at, at, event.recordedAt, new long[] {Blake2b.idHash(event.eventId)});
    }

    /** Both marks' evidence; {@code one} is a single event's. */
    Mark join(Mark one) {
        return new Mark(
            Math.min(first, one.first),
            Math.max(last, one.last),
            Math.min(recorded, one.recorded),
            insert(one.ids[0]));
    }

    private long[] insert(long id) {
        int place = Arrays.binarySearch(ids, id);
        if (place >= 0) {
            return ids;
        }
        int at = -place - 1;
        boolean full = ids.length >= SKETCH;
        if (full && at == ids.length) {
            return ids;
        }
        long[] joined = Arrays.copyOf(ids, full ? ids.length : ids.length + 1);
        System.arraycopy(ids, at, joined, at + 1, joined.length - at - 1);
        joined[at] = id;
        return joined;
    }
}
