// Writes the golden batches beside this file with Kafka's own builder:
//   java -cp '<folder of the Kafka 3.9.1 jars>/*' Golden.java
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.*;

public class Golden {
    public static void main(String[] args) throws Exception {
        for (CompressionType type : CompressionType.values()) {
            ByteBuffer buffer = ByteBuffer.allocate(200_000);
            try (MemoryRecordsBuilder builder = MemoryRecords.builder(buffer, (byte) 2, Compression.of(type).build(),
                    TimestampType.CREATE_TIME, 100L, -1L, 7L, (short) 3, 42, false, 5)) {
                Header[] headers = {new RecordHeader("h", bytes("1")), new RecordHeader("h", null), new RecordHeader("", bytes(""))};
                builder.append(1000L, null, bytes("v0"), headers);
                builder.append(999L, bytes("k1"), bytes(""), new Header[0]);
                builder.append(5_000_000_000_000L, bytes(""), null, new Header[0]);
                if (type != CompressionType.NONE)
                    builder.append(1001L, bytes("big"), bytes("krossing ".repeat(8000)), new Header[0]);
            }
            write("java-" + type.name, buffer);
        }
        ByteBuffer buffer = ByteBuffer.allocate(1000);
        MemoryRecords.writeEndTransactionalMarker(buffer, 7L, 1234L, 5, 9L, (short) 2,
            new EndTransactionMarker(ControlRecordType.ABORT, 11));
        write("java-abort", buffer);
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static void write(String name, ByteBuffer buffer) throws Exception {
        buffer.flip();
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        String hex = HexFormat.of().formatHex(bytes).replaceAll(".{120}", "$0\n");
        Files.writeString(Path.of(name + ".hex"), hex + "\n");
    }
}
