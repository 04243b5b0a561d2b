// Java's own PKCS#11 provider at the benchmark's operations, with N threads. It speaks as bench/raw does: one JSON object a line, first that it is
// ready, then an answer to each line that it reads ("window WARM_UP MEASURED" in milliseconds, "load GRACE" in milliseconds with times in microseconds, "sample"; "quit" ends it).
//
//     java Sun.java --module MODULE --slot ID --pin PIN --key LABEL --op rsa --data HEX [--signature HEX] --threads N

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Key;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Provider;
import java.security.PublicKey;
import java.security.SecureRandom;
import java.security.Security;
import java.security.Signature;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.atomic.LongAdder;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.SecretKey;
import javax.crypto.spec.GCMParameterSpec;

public class Sun {
    // A thread's own object: the provider's are not to be shared.
    interface Operation { byte[] run() throws Exception; }
    interface Maker { Operation make() throws Exception; }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i + 1 < arguments.length; i += 2) options.put(arguments[i].substring(2), arguments[i + 1]);

        Provider provider = provider(options);
        Maker maker = maker(provider, options);
        int threads = Integer.parseInt(options.get("threads"));
        maker.make().run();
        System.out.println("{\"ready\":true}");

        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.trim().split(" ");
            switch (words[0]) {
                case "window" -> System.out.println(measure(maker, threads, Long.parseLong(words[1]), Long.parseLong(words[2])));
                case "load" -> System.out.println(load(maker, threads, Long.parseLong(words[1]), Arrays.stream(words).skip(2).mapToLong(Long::parseLong).toArray()));
                case "sample" -> System.out.println("{\"output\":\"" + HexFormat.of().formatHex(maker.make().run()) + "\"}");
                case "quit" -> System.exit(0);
                default -> throw new IllegalArgumentException("unknown line: " + line);
            }
        }
    }

    static Provider provider(Map<String, String> options) throws Exception {
        Path file = Files.createTempFile("sun", ".cfg");
        try {
            Files.writeString(file, "name=Bench\nlibrary=" + options.get("module") + "\nslot=" + options.get("slot") + "\n");
            return Security.getProvider("SunPKCS11").configure(file.toString());
        } finally {
            Files.delete(file);
        }
    }

    static Maker maker(Provider provider, Map<String, String> options) throws Exception {
        char[] pin = options.get("pin").toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS11", provider);
        store.load(null, pin);
        String label = options.getOrDefault("key", "");
        byte[] data = HexFormat.of().parseHex(options.getOrDefault("data", ""));
        byte[] signature = HexFormat.of().parseHex(options.getOrDefault("signature", ""));

        return switch (options.get("op")) {
            case "rsa" -> signer(provider, "SHA256withRSA", (PrivateKey) key(store, label, pin), data);
            case "ec" -> signer(provider, "NONEwithECDSAinP1363Format", (PrivateKey) key(store, label, pin), data);
            case "verify_rsa" -> verifier(provider, "SHA256withRSA", publicKey(store, label), data, signature);
            case "verify_ec" -> verifier(provider, "NONEwithECDSAinP1363Format", publicKey(store, label), data, signature);
            case "hmac" -> {
                SecretKey key = (SecretKey) key(store, label, pin);
                yield () -> {
                    Mac mac = Mac.getInstance("HmacSHA256", provider);
                    mac.init(key);
                    return () -> mac.doFinal(data);
                };
            }
            case "aes_gcm" -> encrypter(provider, (SecretKey) key(store, label, pin), data);
            case "random" -> {
                SecureRandom random = SecureRandom.getInstance("PKCS11", provider);
                yield () -> () -> {
                    byte[] bytes = new byte[32];
                    random.nextBytes(bytes);
                    return bytes;
                };
            }
            default -> throw new IllegalArgumentException("unknown operation: " + options.get("op"));
        };
    }

    static Key key(KeyStore store, String label, char[] pin) throws Exception {
        Key key = store.getKey(label, pin);
        if (key == null) throw new IllegalArgumentException("the key store shows no key " + label);
        return key;
    }

    static PublicKey publicKey(KeyStore store, String label) throws Exception {
        return store.getCertificate(label).getPublicKey();
    }

    static Maker signer(Provider provider, String algorithm, PrivateKey key, byte[] data) {
        return () -> {
            Signature signature = Signature.getInstance(algorithm, provider);
            signature.initSign(key);
            return () -> {
                signature.update(data);
                return signature.sign();
            };
        };
    }

    static Maker verifier(Provider provider, String algorithm, PublicKey key, byte[] data, byte[] expected) {
        return () -> {
            Signature signature = Signature.getInstance(algorithm, provider);
            signature.initVerify(key);
            return () -> {
                signature.update(data);
                if (!signature.verify(expected)) throw new IllegalStateException("the signature is not valid");
                return new byte[0];
            };
        };
    }

    // As for all others the first nonce is twelve sevens; the provider wants another one each time.
    static Maker encrypter(Provider provider, SecretKey key, byte[] data) {
        return () -> {
            Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding", provider);
            byte[] first = new byte[12];
            Arrays.fill(first, (byte) 7);
            ByteBuffer nonce = ByteBuffer.wrap(first);
            return () -> {
                cipher.init(Cipher.ENCRYPT_MODE, key, new GCMParameterSpec(128, nonce.array()));
                nonce.putLong(0, nonce.getLong(0) + 1);
                return cipher.doFinal(data);
            };
        };
    }

    static String measure(Maker maker, int threads, long warmUp, long measured) throws Exception {
        LongAdder completed = new LongAdder();
        AtomicBoolean stop = new AtomicBoolean();
        AtomicReference<Throwable> failed = new AtomicReference<>();
        Thread[] all = new Thread[threads];
        for (int i = 0; i < threads; i++) {
            all[i] = new Thread(() -> {
                try {
                    Operation operation = maker.make();
                    while (!stop.get()) {
                        operation.run();
                        completed.increment();
                    }
                } catch (Throwable error) {
                    failed.compareAndSet(null, error);
                }
            });
        }
        for (Thread thread : all) thread.start();
        Thread.sleep(warmUp);
        long before = completed.sum(), started = System.nanoTime();
        Thread.sleep(measured);
        long count = completed.sum() - before, passed = System.nanoTime() - started;
        stop.set(true);
        for (Thread thread : all) thread.join();
        if (failed.get() != null) throw new IllegalStateException(failed.get());
        return "{\"completed\":" + count + ",\"seconds\":" + passed / 1e9 + "}";
    }

    // An open loop, as bench/support/open_loop.ex is: calls come at these times, are queued, and are done by the threads.
    static String load(Maker maker, int threads, long grace, long[] times) throws Exception {
        LinkedBlockingQueue<Long> queue = new LinkedBlockingQueue<>();
        ConcurrentLinkedQueue<long[]> answers = new ConcurrentLinkedQueue<>();
        AtomicReference<Throwable> failed = new AtomicReference<>();
        Thread[] all = new Thread[threads];
        for (int i = 0; i < threads; i++) {
            all[i] = new Thread(() -> {
                try {
                    Operation operation = maker.make();
                    for (long asked = queue.take(); asked != 0; asked = queue.take()) {
                        operation.run();
                        answers.add(new long[] {asked, System.nanoTime()});
                    }
                } catch (Throwable error) {
                    failed.compareAndSet(null, error);
                }
            });
        }
        for (Thread thread : all) thread.start();
        long started = System.nanoTime();
        for (int next = 0; next < times.length; Thread.sleep(1)) {
            for (; next < times.length && times[next] * 1_000 <= System.nanoTime() - started; next++) queue.add(System.nanoTime());
        }
        long ended = System.nanoTime();
        for (int i = 0; i < threads; i++) queue.add(0L);
        for (Thread thread : all) thread.join();
        if (failed.get() != null) throw new IllegalStateException(failed.get());
        double[] passed = answers.stream().mapToDouble(answer -> (answer[1] - answer[0]) / 1e6).sorted().toArray();
        long late = answers.stream().filter(answer -> answer[1] > ended + grace * 1_000_000).count();
        return "{\"p50\":" + percentile(passed, 50) + ",\"p99\":" + percentile(passed, 99) + ",\"asked\":" + passed.length + ",\"late\":" + late + "}";
    }

    static double percentile(double[] sorted, int percent) {
        return sorted.length == 0 ? 0.0 : sorted[Math.max(0, (sorted.length * percent + 99) / 100 - 1)];
    }
}
