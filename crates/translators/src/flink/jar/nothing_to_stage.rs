//! A class for Beam's runner in the cluster, which says that there are no files to stage.
//!
//! The runner looks through its class path for them before each job, half a second long: that is of use to those who submit a job to a
//! cluster, not within one. Which class looks is a pipeline option, and so a job's jar brings one that need not look. It is:
//!
//! ```java
//! package beamline;
//! public class NothingToStage implements PipelineResourcesDetector.Factory, PipelineResourcesDetector {
//!   public static NothingToStage create() { return new NothingToStage(); }
//!   public PipelineResourcesDetector getPipelineResourcesDetector() { return this; }
//!   public List<String> detect(ClassLoader unused) { return Collections.emptyList(); }
//! }
//! ```
//!
//! It is written as a class file here, so that nobody needs a Java compiler (Java Virtual Machine Specification, chapter 4).

/// Where the class is in the jar.
pub(super) const FILE: &str = "beamline/NothingToStage.class";
/// The pipeline option that names it, and how it does.
pub(super) const OPTION: &str = "pipeline_resources_detector_factory_class";
pub(super) const NAME: &str = "beamline.NothingToStage";
/// The file of what the class implements. A runner jar of a Beam that has it elsewhere looks for files as ever.
pub(super) const NEEDED: &str =
    "org/apache/beam/sdk/util/construction/resources/PipelineResourcesDetector$Factory.class";

const OWN: &str = "beamline/NothingToStage";
const FACTORY: &str = "org/apache/beam/sdk/util/construction/resources/PipelineResourcesDetector$Factory";
const DETECTOR: &str = "org/apache/beam/sdk/util/construction/resources/PipelineResourcesDetector";
const OBJECT: &str = "java/lang/Object";
const CONSTRUCTOR: (&str, &str) = ("<init>", "()V");

/// The version of class files that Java 8 brought.
const VERSION: u16 = 52;
const PUBLIC: u16 = 0x0001;
const STATIC: u16 = 0x0008;
/// Of each class since Java 1.1.
const SUPER: u16 = 0x0020;

const ALOAD_0: u8 = 0x2A;
const DUP: u8 = 0x59;
const ARETURN: u8 = 0xB0;
const RETURN: u8 = 0xB1;
const INVOKESPECIAL: u8 = 0xB7;
const INVOKESTATIC: u8 = 0xB8;
const NEW: u8 = 0xBB;

/// The bytes of the class file.
pub(super) fn class_file() -> Vec<u8> {
    let mut pool = Pool::default();
    let [own, object, detector, factory] = [OWN, OBJECT, DETECTOR, FACTORY].map(|name| pool.class(name));
    let [super_new, own_new] = [OBJECT, OWN].map(|class| pool.method(class, CONSTRUCTOR.0, CONSTRUCTOR.1));
    let empty_list = pool.method("java/util/Collections", "emptyList", "()Ljava/util/List;");
    let with = |code: u8, index: u16| [&[code], index.to_be_bytes().as_slice()].concat();
    let methods = [
        Method {
            access: PUBLIC,
            name: CONSTRUCTOR.0,
            descriptor: CONSTRUCTOR.1.to_owned(),
            stack: 1,
            locals: 1,
            code: [vec![ALOAD_0], with(INVOKESPECIAL, super_new), vec![RETURN]].concat(),
        },
        Method {
            access: PUBLIC | STATIC,
            name: "create",
            descriptor: format!("()L{OWN};"),
            stack: 2,
            locals: 0,
            code: [with(NEW, own), vec![DUP], with(INVOKESPECIAL, own_new), vec![ARETURN]].concat(),
        },
        Method {
            access: PUBLIC,
            name: "getPipelineResourcesDetector",
            descriptor: format!("()L{DETECTOR};"),
            stack: 1,
            locals: 1,
            code: vec![ALOAD_0, ARETURN],
        },
        Method {
            access: PUBLIC,
            name: "detect",
            descriptor: "(Ljava/lang/ClassLoader;)Ljava/util/List;".to_owned(),
            stack: 1,
            locals: 2,
            code: [with(INVOKESTATIC, empty_list), vec![ARETURN]].concat(),
        },
    ];
    let code_attribute = pool.utf8("Code");
    let mut body = Vec::new();
    put(&mut body, &[PUBLIC | SUPER, own, object, 2, factory, detector]);
    // No fields.
    put(&mut body, &[0, methods.len() as u16]);
    for method in methods {
        method.write(&mut pool, code_attribute, &mut body);
    }
    // No attributes of the class.
    put(&mut body, &[0]);

    let mut file = 0xCAFE_BABE_u32.to_be_bytes().to_vec();
    // The minor version is 0; the count of constants is one more than there are.
    put(&mut file, &[0, VERSION, pool.count + 1]);
    file.extend(pool.bytes);
    file.extend(body);
    file
}

/// One without branches, exceptions and attributes of its own.
struct Method {
    access: u16,
    name: &'static str,
    descriptor: String,
    stack: u16,
    locals: u16,
    code: Vec<u8>,
}

impl Method {
    fn write(self, pool: &mut Pool, code_attribute: u16, out: &mut Vec<u8>) {
        let [name, descriptor] = [self.name, &self.descriptor].map(|text| pool.utf8(text));
        let length = self.code.len() as u32;
        put(out, &[self.access, name, descriptor, 1, code_attribute]);
        // Both numbers before the code and both counts after it, each with the code's own length.
        out.extend((2 + 2 + 4 + length + 2 + 2).to_be_bytes());
        put(out, &[self.stack, self.locals]);
        out.extend(length.to_be_bytes());
        out.extend(self.code);
        put(out, &[0, 0]);
    }
}

/// The constants of a class file, counted from 1.
#[derive(Default)]
struct Pool {
    bytes: Vec<u8>,
    count: u16,
}

impl Pool {
    fn utf8(&mut self, text: &str) -> u16 {
        self.add(1, &[text.len() as u16]);
        self.bytes.extend(text.as_bytes());
        self.count
    }

    fn class(&mut self, name: &str) -> u16 {
        let name = self.utf8(name);
        self.add(7, &[name])
    }

    fn method(&mut self, class: &str, name: &str, descriptor: &str) -> u16 {
        let class = self.class(class);
        let [name, descriptor] = [name, descriptor].map(|text| self.utf8(text));
        let name_and_type = self.add(12, &[name, descriptor]);
        self.add(10, &[class, name_and_type])
    }

    fn add(&mut self, tag: u8, rest: &[u16]) -> u16 {
        self.bytes.push(tag);
        put(&mut self.bytes, rest);
        self.count += 1;
        self.count
    }
}

fn put(out: &mut Vec<u8>, numbers: &[u16]) {
    out.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a class file from its beginning to its end, as a virtual machine does.
    struct Reader<'a>(&'a [u8]);

    impl<'a> Reader<'a> {
        fn take(&mut self, length: usize) -> &'a [u8] {
            let (taken, rest) = self.0.split_at(length);
            self.0 = rest;
            taken
        }

        fn number(&mut self, length: usize) -> usize {
            self.take(length).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        }
    }

    #[test]
    fn the_class_file_has_all_that_it_says_it_has() {
        let file = class_file();
        let mut reader = Reader(&file);
        assert_eq!((reader.number(4), reader.number(4)), (0xCAFE_BABE, 52));
        let mut texts = vec![""];
        for _ in 1..reader.number(2) {
            let tag = reader.number(1);
            texts.push(match tag {
                1 => {
                    let length = reader.number(2);
                    std::str::from_utf8(reader.take(length)).unwrap()
                }
                7 => texts[reader.number(2)],
                10 | 12 => {
                    let (_, _) = (reader.number(2), reader.number(2));
                    ""
                }
                other => panic!("constant of kind {other}"),
            });
        }
        assert_eq!(reader.number(2), 0x21);
        let mut class = || texts[reader.number(2)];
        assert_eq!((class(), class()), (OWN, OBJECT));
        let interfaces = (0..reader.number(2)).map(|_| texts[reader.number(2)]).collect::<Vec<_>>();
        assert_eq!(interfaces, [FACTORY, DETECTOR]);
        assert_eq!(reader.number(2), 0, "fields");
        let mut methods = Vec::new();
        for _ in 0..reader.number(2) {
            let _access = reader.number(2);
            methods.push((texts[reader.number(2)], texts[reader.number(2)]));
            assert_eq!((reader.number(2), texts[reader.number(2)]), (1, "Code"));
            let length = reader.number(4);
            let mut code = Reader(reader.take(length));
            let _stack_and_locals = code.number(4);
            let length = code.number(4);
            assert!(matches!(code.take(length).last(), Some(&(ARETURN | RETURN))));
            assert_eq!((code.number(4), code.0.len()), (0, 0), "exceptions and attributes, and nothing else");
        }
        assert_eq!((reader.number(2), reader.0.len()), (0, 0), "attributes, and nothing else");
        let expected = ["<init>", "create", "getPipelineResourcesDetector", "detect"];
        assert_eq!(methods.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expected);
        assert_eq!(NAME.replace('.', "/") + ".class", FILE);
        assert_eq!(FACTORY.to_owned() + ".class", NEEDED);
    }
}
