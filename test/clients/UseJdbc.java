// JDBC binds values with the types of Java: what is no text for the server is cast in the statement, or set as an object.
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Types;
import java.util.List;
import java.util.UUID;

public class UseJdbc {
    static final String KEY = "text of the client's key", SMALL = "text of a small key";
    static int count, failures;
    static Connection db;

    record Verdict(boolean allowed, int status, String code, String account, UUID request, String window, long cap, double reset, Double retry,
            String headers, String body) {}

    static void equal(String what, Object got, Object expected) {
        boolean same = got.equals(expected);
        count++;
        if (!same) {
            failures++;
            System.out.println("# got " + got + ", expected " + expected);
        }
        System.out.println((same ? "ok " : "not ok ") + count + " - " + what);
    }

    static Verdict ask(String key, String path, String ip, long cost) throws Exception {
        try (PreparedStatement statement = db.prepareStatement("""
                SELECT v.*, r.headers, r.headers ->> 'Retry-After' AS after, r.body
                FROM apikeys.verify(?, endpoint => ?, ip => ?::inet, cost => ?, scopes => ?) AS v, apikeys.http_response(v) AS r""")) {
            statement.setString(1, key);
            statement.setString(2, path);
            statement.setString(3, ip);
            statement.setLong(4, cost);
            statement.setArray(5, db.createArrayOf("text", key.equals(KEY) ? new String[] {"read"} : new String[0]));
            ResultSet row = statement.executeQuery();
            row.next();
            return new Verdict(row.getBoolean("allowed"), row.getInt("status"), row.getString("code"), row.getString("account"),
                    row.getObject("request_id", UUID.class), row.getString("limit_window"), row.getLong("limit_cap"), row.getDouble("reset_after_s"),
                    row.getObject("retry_after_s", Double.class), row.getString("headers"), row.getString("body"));
        }
    }

    static boolean complete(UUID request, double duration, Long credits) throws Exception {
        try (PreparedStatement statement = db.prepareStatement("SELECT apikeys.complete(?, status => ?, duration_ms => ?, credits => ?)")) {
            statement.setObject(1, request);
            statement.setInt(2, 200);
            statement.setDouble(3, duration);
            if (credits == null)
                statement.setNull(4, Types.BIGINT);
            else
                statement.setLong(4, credits);
            ResultSet row = statement.executeQuery();
            row.next();
            return row.getBoolean(1);
        }
    }

    public static void main(String[] arguments) throws Exception {
        db = DriverManager.getConnection(System.getenv("JDBC_URL"), "my_gateway", System.getenv("JDBC_PASSWORD"));
        // From the sixth time on, a statement is prepared.
        for (int n = 0; n < 8; n++) {
            Verdict v = ask(KEY, "/v1/maps", "192.0.2.7", 1);
            equal("allowed", List.of(v.allowed, v.status, v.code, v.account, v.window, v.cap), List.of(true, 200, "valid", "acme", "day", 1000L));
            equal("completed", complete(v.request, 12.5, n % 2 == 0 ? 2L : null), true);
        }
        equal("no path and no address", ask(KEY, null, null, 0).code, "valid");
        equal("within the quota", ask(SMALL, null, null, 1).code, "valid");
        Verdict denied = ask(SMALL, null, null, 1);
        equal("denied by its quota", List.of(denied.status, denied.code, denied.retry > 86000), List.of(401, "quota_exceeded", true));
        equal("the body", denied.body, "{\"error\": \"Rate limit exceeded: quota daily\"}");
        try (PreparedStatement statement = db.prepareStatement(
                "SELECT n, code FROM apikeys.verify_many(?, endpoints => ?, ips => ?, costs => ?)")) {
            statement.setArray(1, db.createArrayOf("text", new String[] {KEY, "no key"}));
            statement.setArray(2, db.createArrayOf("text", new String[] {"/a", null}));
            statement.setArray(3, db.createArrayOf("inet", new String[] {"192.0.2.7", null}));
            statement.setArray(4, db.createArrayOf("bigint", new Long[] {1L, 1L}));
            ResultSet row = statement.executeQuery();
            String codes = "";
            while (row.next())
                codes += row.getInt("n") + " " + row.getString("code") + " ";
            equal("many", codes, "1 valid 2 invalid ");
        }
        System.out.println("1.." + count);
        System.exit(failures > 0 ? 1 : 0);
    }
}
