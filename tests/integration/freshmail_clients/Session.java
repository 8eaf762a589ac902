import java.nio.charset.StandardCharsets;
import okhttp3.MediaType;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.RequestBody;
import okhttp3.Response;

/** The document's OkHttp example: its body from standard input, to the gateway that HOST names, by the slashed path. */
public final class Session {
    public static void main(String[] args) throws Exception {
        String json = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
        OkHttpClient client = new OkHttpClient();
        for (String token : new String[] {System.getenv("TOKEN"), "wrong"}) {
            RequestBody body = RequestBody.create(MediaType.parse("application/json"), json);
            Request request = new Request.Builder()
                .url("http://" + System.getenv("HOST") + "/v3/messaging/emails/")
                .post(body)
                .addHeader("Content-Type", "application/json")
                .addHeader("Authorization", "Bearer " + token)
                .build();
            try (Response response = client.newCall(request).execute()) {
                System.out.println(response.code() + " " + response.body().string());
            }
        }
        client.dispatcher().executorService().shutdown();
        client.connectionPool().evictAll();
    }
}
