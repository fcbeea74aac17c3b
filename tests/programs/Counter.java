import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.atomic.AtomicLong;

/** Threads, a changing structure in the heap, and garbage collections. See README.md. */
public final class Counter {
    private static final int THREADS = 8;
    private static final int ENTRIES = 20_000;

    private static final ThreadLocal<long[]> OWN_COUNT = ThreadLocal.withInitial(() -> new long[1]);
    private static final AtomicLong TOTAL = new AtomicLong();
    private static volatile long round = 0;

    private Counter() {}

    private static synchronized void bad(String what, Object expected, Object found) {
        System.out.println("BAD " + what + ": expected " + expected + ", found " + found);
        System.out.flush();
        Runtime.getRuntime().halt(1);
    }

    private static void same(String what, Object expected, Object found) {
        if (!expected.equals(found)) {
            bad(what, expected, found);
        }
    }

    private static String text(long number) {
        return "entry " + number * 2654435761L;
    }

    /** The oldest entries leave, new ones come; every value follows from its key. */
    private static void churn(Map<Long, String> entries, long cycle) {
        for (int step = 0; step < 200; step++) {
            Long oldest = entries.keySet().iterator().next();
            same("oldest entry", (cycle - 1) * 200 + step, oldest);
            same("value of an entry", text(oldest), entries.remove(oldest));
            long newest = oldest + ENTRIES;
            entries.put(newest, text(newest));
        }
        if (cycle % 25 == 0) {
            entries.forEach((key, value) -> same("value of entry " + key, text(key), value));
        }
        same("entries", ENTRIES, entries.size());
    }

    private static void await(CyclicBarrier barrier) {
        try {
            barrier.await();
        } catch (InterruptedException | BrokenBarrierException error) {
            bad("barrier", "no exception", error);
        }
    }

    private static void count(CyclicBarrier barrier, int member) {
        String name = Thread.currentThread().getName();
        while (true) {
            await(barrier);
            OWN_COUNT.get()[0]++;
            same("count of thread " + member, round, OWN_COUNT.get()[0]);
            same("name of thread " + member, name, "counter " + member);
            TOTAL.incrementAndGet();
            await(barrier);
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> bad("thread " + thread.getName(), "no exception", error));
        CyclicBarrier barrier = new CyclicBarrier(THREADS + 1);
        for (int member = 0; member < THREADS; member++) {
            int number = member;
            Thread thread = new Thread(() -> count(barrier, number), "counter " + number);
            thread.setDaemon(true);
            thread.start();
        }
        Map<Long, String> entries = new LinkedHashMap<>();
        for (long key = 0; key < ENTRIES; key++) {
            entries.put(key, text(key));
        }
        List<WeakReference<byte[]>> weak = new ArrayList<>();
        for (long cycle = 1; ; cycle++) {
            round = cycle;
            await(barrier);
            await(barrier);
            same("total of the threads", cycle * THREADS, TOTAL.get());
            churn(entries, cycle);
            weak.add(new WeakReference<>(new byte[100_000]));
            if (cycle % 100 == 0) {
                System.gc();
                weak.removeIf(reference -> reference.get() == null);
            }
            System.out.println("ok " + cycle + " entries=" + entries.size() + " total=" + TOTAL.get());
            System.out.flush();
            Thread.sleep(30);
        }
    }
}
