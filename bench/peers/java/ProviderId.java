import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/** A provider and what it calls the email; the smallest few are kept, in Python's order of strings: by code point. */
record ProviderId(String provider, String id) {
    private static final int KEPT = 16;
    private static final Comparator<ProviderId> ORDER = Comparator
        .comparing(ProviderId::provider, ProviderId::byCodePoint)
        .thenComparing(ProviderId::id, ProviderId::byCodePoint);

    static List<ProviderId> join(List<ProviderId> ids, ProviderId one) {
        if (ids.contains(one)) {
            return ids;
        }
        List<ProviderId> joined = new ArrayList<>(ids);
        joined.add(one);
        joined.sort(ORDER);
        return joined.size() > KEPT ? joined.subList(0, KEPT) : joined;
    }

    private static int byCodePoint(String a, String b) {
        int at = 0;
        while (at < a.length() && at < b.length() && a.charAt(at) == b.charAt(at)) {
            at++;
        }
        if (at == a.length() || at == b.length()) {
            return Integer.compare(a.length(), b.length());
        }
        // A surrogate stands for a code point above every other char's.
        boolean highA = Character.isSurrogate(a.charAt(at));
        boolean highB = Character.isSurrogate(b.charAt(at));
        return highA == highB ? Character.compare(a.charAt(at), b.charAt(at)) : Boolean.compare(highA, highB);
    }
}
