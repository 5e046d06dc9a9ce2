import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.UnsupportedCallbackException;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

/**
 * What brokers of MSK do with a token: the signature of the address in it is made anew with the secret of whom it names,
 * and compared. Here the secret of every access key is "secret-of-" and the key. Each token is told on the broker's log.
 */
public final class IamTokens implements AuthenticateCallbackHandler {
    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC);

    @Override
    public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {}

    @Override
    public void close() {}

    @Override
    public void handle(Callback[] callbacks) throws UnsupportedCallbackException {
        for (Callback callback : callbacks) {
            if (!(callback instanceof OAuthBearerValidatorCallback validator)) {
                throw new UnsupportedCallbackException(callback);
            }
            try {
                validator.token(checked(validator.tokenValue()));
            } catch (RuntimeException | GeneralSecurityException refusal) {
                System.out.println("iam: refused: " + refusal.getMessage());
                validator.error("access_denied", null, null);
            }
        }
    }

    private static OAuthBearerToken checked(String token) throws GeneralSecurityException {
        URI address = URI.create(new String(Base64.getUrlDecoder().decode(token), StandardCharsets.UTF_8));
        Map<String, String> query = new TreeMap<>();
        for (String parameter : address.getRawQuery().split("&")) {
            int at = parameter.indexOf('=');
            query.put(parameter.substring(0, at), parameter.substring(at + 1));
        }
        expect("kafka-cluster%3AConnect", query.get("Action"));
        String[] scope = decoded(query.get("X-Amz-Credential")).split("/");
        String key = scope[0], date = scope[1], region = scope[2];
        expect("kafka-cluster/aws4_request", scope[3] + "/" + scope[4]);
        expect("https://kafka." + region + ".amazonaws.com", address.getScheme() + "://" + address.getHost());
        Instant signed = Instant.from(TIME.parse(query.get("X-Amz-Date")));
        long seconds = Long.parseLong(query.get("X-Amz-Expires"));
        Instant expires = signed.plusSeconds(seconds);
        if (seconds > 900 || signed.isAfter(Instant.now().plusSeconds(60)) || expires.isBefore(Instant.now())) {
            throw new IllegalArgumentException("the token is not valid now");
        }
        expect(signature(address, query, key, date, region), query.get("X-Amz-Signature"));
        System.out.println("iam: accepted " + key + " " + query.get("X-Amz-Date"));
        return new Accepted(token, key, expires.toEpochMilli(), signed.toEpochMilli());
    }

    private static String signature(URI address, Map<String, String> query, String key, String date, String region)
            throws GeneralSecurityException {
        StringBuilder covered = new StringBuilder();
        query.forEach((name, value) -> {
            if (!name.equals("X-Amz-Signature") && !name.equals("User-Agent")) {
                covered.append(covered.isEmpty() ? "" : "&").append(name).append('=').append(value);
            }
        });
        String request = "GET\n" + address.getRawPath() + "\n" + covered + "\nhost:" + address.getHost() + "\n\nhost\n" + sha256("");
        String scope = date + "/" + region + "/kafka-cluster/aws4_request";
        String text = "AWS4-HMAC-SHA256\n" + query.get("X-Amz-Date") + "\n" + scope + "\n" + sha256(request);
        byte[] secret = ("AWS4secret-of-" + key).getBytes(StandardCharsets.UTF_8);
        for (String part : List.of(date, region, "kafka-cluster", "aws4_request", text)) {
            secret = hmac(secret, part);
        }
        return HexFormat.of().formatHex(secret);
    }

    private static void expect(String wanted, String found) {
        if (!wanted.equals(found)) {
            throw new IllegalArgumentException("not " + wanted + " but " + found);
        }
    }

    private static String decoded(String text) {
        return URLDecoder.decode(text, StandardCharsets.UTF_8);
    }

    private static String sha256(String text) throws GeneralSecurityException {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        return HexFormat.of().formatHex(digest);
    }

    private static byte[] hmac(byte[] key, String text) throws GeneralSecurityException {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
    }

    private record Accepted(String value, String principalName, long lifetimeMs, Long startTimeMs) implements OAuthBearerToken {
        @Override
        public Set<String> scope() {
            return Set.of();
        }
    }
}
