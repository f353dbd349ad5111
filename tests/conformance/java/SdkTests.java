import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.TreeSet;
import java.util.jar.JarFile;
import org.apache.beam.sdk.testing.ValidatesRunner;
import org.junit.Test;
import org.junit.experimental.categories.Categories.CategoryFilter;
import org.junit.runner.Description;
import org.junit.runner.JUnitCore;
import org.junit.runner.Request;
import org.junit.runner.Result;
import org.junit.runner.RunWith;
import org.junit.runner.manipulation.Filter;
import org.junit.runner.notification.Failure;
import org.junit.runner.notification.RunListener;

/**
 * The SDK's own tests of the category ValidatesRunner, for java_suite.py.
 *
 * <p>{@code list JAR} prints a line {@code class#method} for each of them. {@code run} reads such lines from
 * standard input, runs each and answers it with a line: {@code passed}, {@code skipped} or {@code failed}, a blank, and
 * what was said, in base64.
 */
public final class SdkTests {
  private static final Filter VALIDATES_RUNNER = CategoryFilter.include(ValidatesRunner.class);

  private SdkTests() {}

  public static void main(String[] args) throws Exception {
    // What tests print is not an answer.
    PrintStream answers = System.out;
    System.setOut(System.err);
    if (args[0].equals("list")) {
      list(new File(args[1]), answers);
    } else {
      BufferedReader names = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
      for (String name = names.readLine(); name != null; name = names.readLine()) {
        answers.println(run(name));
        answers.flush();
      }
    }
    answers.flush();
    // Threads of a worker that has not ended would keep the process.
    Runtime.getRuntime().halt(0);
  }

  private static void list(File jar, PrintStream answers) throws Exception {
    TreeSet<String> names = new TreeSet<>();
    try (JarFile entries = new JarFile(jar)) {
      for (String entry : (Iterable<String>) entries.stream().map(it -> it.getName())::iterator) {
        if (entry.startsWith("org/apache/beam/sdk/") && entry.endsWith(".class")) {
          String className = entry.substring(0, entry.length() - ".class".length()).replace('/', '.');
          try {
            Class<?> tests = Class.forName(className, false, SdkTests.class.getClassLoader());
            if (hasTests(tests)) {
              addNames(Request.aClass(tests).getRunner().getDescription(), names);
            }
          } catch (LinkageError e) {
            System.err.println(className + ": " + e);
          }
        }
      }
    }
    names.forEach(answers::println);
  }

  private static boolean hasTests(Class<?> tests) {
    if (java.lang.reflect.Modifier.isAbstract(tests.getModifiers())) {
      return false;
    }
    for (java.lang.reflect.Method method : tests.getMethods()) {
      if (method.isAnnotationPresent(Test.class)) {
        return true;
      }
    }
    return tests.isAnnotationPresent(RunWith.class);
  }

  private static void addNames(Description description, TreeSet<String> names) {
    if (description.isTest()) {
      if (description.getMethodName() != null && VALIDATES_RUNNER.shouldRun(description)) {
        names.add(description.getClassName() + "#" + description.getMethodName());
      }
    } else {
      description.getChildren().forEach(child -> addNames(child, names));
    }
  }

  private static String run(String name) {
    String[] parts = name.split("#", 2);
    List<Failure> excused = new ArrayList<>();
    JUnitCore core = new JUnitCore();
    core.addListener(
        new RunListener() {
          @Override
          public void testAssumptionFailure(Failure failure) {
            excused.add(failure);
          }
        });
    try {
      Class<?> tests = Class.forName(parts[0]);
      Filter one =
          new Filter() {
            @Override
            public boolean shouldRun(Description description) {
              return description.isTest()
                  ? parts[1].equals(description.getMethodName())
                  : description.getChildren().stream().anyMatch(this::shouldRun);
            }

            @Override
            public String describe() {
              return name;
            }
          };
      Result result = core.run(Request.aClass(tests).filterWith(one));
      if (!result.wasSuccessful()) {
        return answer("failed", result.getFailures());
      }
      boolean ran = result.getRunCount() > 0 && result.getIgnoreCount() == 0 && excused.isEmpty();
      return answer(ran ? "passed" : "skipped", excused);
    } catch (ClassNotFoundException | LinkageError e) {
      return answer("failed", List.of(new Failure(Description.EMPTY, e)));
    }
  }

  private static String answer(String state, List<Failure> failures) {
    StringWriter said = new StringWriter();
    try (PrintWriter writer = new PrintWriter(said)) {
      failures.forEach(failure -> failure.getException().printStackTrace(writer));
    }
    return state + " " + Base64.getEncoder().encodeToString(said.toString().getBytes(StandardCharsets.UTF_8));
  }
}
