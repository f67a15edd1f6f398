//! libpam, loaded when it is needed, so that building and other operations do without it.
//!
//! A [`Transaction`] is one `pam_start` … `pam_end`. Everything that C sees is made and checked here;
//! all other modules are safe code.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt as _;
use std::{ptr, slice};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

/// The library's name, the same on all Linux distributions since 1999.
const LIBRARY: &str = "libpam.so.0";
/// More messages in one call are refused, as libpam's own limit says (`PAM_MAX_NUM_MSG`).
const MOST_MESSAGES: usize = 32;
/// More questions in one transaction are refused: a stack that asks for ever gets no answer for ever.
const MOST_QUESTIONS: usize = 64;
/// A longer answer is refused: modules keep no more than that (`PAM_MAX_RESP_SIZE`, with its zero byte).
pub(crate) const LONGEST_ANSWER: usize = 511;
/// What modules say is kept up to so many bytes, for the log.
const MOST_SAID: usize = 500;

const SUCCESS: c_int = 0;
const BUFFER_ERROR: c_int = 5;
const CONVERSATION_ERROR: c_int = 19;
const ITEM_USER: c_int = 2;
const ITEM_RHOST: c_int = 4;
const PROMPT_ECHO_OFF: c_int = 1;
const PROMPT_ECHO_ON: c_int = 2;
const ERROR_MESSAGE: c_int = 3;
const TEXT_INFO: c_int = 4;
const DISALLOW_NULL_AUTHTOK: c_int = 0x0001;
const ESTABLISH_CREDENTIALS: c_int = 0x0002;
const DELETE_CREDENTIALS: c_int = 0x0004;
const REINITIALIZE_CREDENTIALS: c_int = 0x0008;

/// `pam_handle_t`, which only libpam looks into.
#[repr(C)]
struct Handle {
    opaque: [u8; 0],
}

/// `struct pam_message`.
#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

/// `struct pam_response`.
#[repr(C)]
struct Response {
    text: *mut c_char,
    /// Unused, says libpam.
    _code: c_int,
}

/// `struct pam_conv`.
#[repr(C)]
struct Callback {
    function: unsafe extern "C" fn(
        c_int,
        *const *const Message,
        *mut *mut Response,
        *mut c_void,
    ) -> c_int,
    data: *mut c_void,
}

/// `int f(pam_handle_t *, int)`, which most of libpam's functions are.
type Step = unsafe extern "C" fn(*mut Handle, c_int) -> c_int;

/// The functions of libpam that we call.
struct Functions {
    start: Symbol<
        unsafe extern "C" fn(
            *const c_char,
            *const c_char,
            *const Callback,
            *mut *mut Handle,
        ) -> c_int,
    >,
    end: Symbol<Step>,
    authenticate: Symbol<Step>,
    acct_mgmt: Symbol<Step>,
    setcred: Symbol<Step>,
    open_session: Symbol<Step>,
    close_session: Symbol<Step>,
    set_item: Symbol<unsafe extern "C" fn(*mut Handle, c_int, *const c_void) -> c_int>,
    get_item: Symbol<unsafe extern "C" fn(*const Handle, c_int, *mut *const c_void) -> c_int>,
    getenvlist: Symbol<unsafe extern "C" fn(*mut Handle) -> *mut *mut c_char>,
    strerror: Symbol<unsafe extern "C" fn(*mut Handle, c_int) -> *const c_char>,
}

impl Functions {
    fn load() -> Result<Self, PamError> {
        // Its symbols are for all, since some modules use them without naming the library.
        //
        // SAFETY: loading runs the library's initialisers. libpam is part of the system and has none
        // that ask anything of its caller.
        let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_GLOBAL) }
            .map_err(|error| PamError::sentence(format!("{LIBRARY} cannot be loaded: {error}")))?;
        // Never unloaded: its modules may have left things behind that point into it.
        let library: &'static Library = Box::leak(Box::new(library));
        Ok(Self {
            start: function(library, c"pam_start")?,
            end: function(library, c"pam_end")?,
            authenticate: function(library, c"pam_authenticate")?,
            acct_mgmt: function(library, c"pam_acct_mgmt")?,
            setcred: function(library, c"pam_setcred")?,
            open_session: function(library, c"pam_open_session")?,
            close_session: function(library, c"pam_close_session")?,
            set_item: function(library, c"pam_set_item")?,
            get_item: function(library, c"pam_get_item")?,
            getenvlist: function(library, c"pam_getenvlist")?,
            strerror: function(library, c"pam_strerror")?,
        })
    }
}

/// A function of the library, whose type is that of the field it is stored in.
fn function<T>(library: &'static Library, name: &CStr) -> Result<Symbol<T>, PamError> {
    // SAFETY: the types of `Functions` are those that Linux-PAM's <security/pam_appl.h> declares, which
    // libpam.so.0 has kept; OpenPAM, which differs, has another file name. The library is never
    // unloaded, so the symbol stays valid.
    unsafe { library.get(name.to_bytes_with_nul()) }
        .map_err(|error| PamError::sentence(format!("{LIBRARY}: {error}")))
}

/// What did not work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PamError {
    /// libpam's number, if it was libpam that said no.
    pub(crate) code: Option<c_int>,
    /// libpam's words for it, or ours.
    pub(crate) text: String,
    /// What modules had to say to the user.
    pub(crate) said: String,
}

impl PamError {
    fn sentence(text: String) -> Self {
        Self {
            code: None,
            text,
            said: String::new(),
        }
    }
}

impl std::fmt::Display for PamError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)?;
        if let Some(code) = self.code {
            write!(formatter, " (PAM error {code})")?;
        }
        if !self.said.is_empty() {
            write!(formatter, ": {}", self.said)?;
        }
        Ok(())
    }
}

/// Answers a stack's questions.
struct Conversation {
    /// The answers to questions that are typed unseen, the next one last.
    secrets: Vec<CString>,
    /// The answer to questions that are typed visibly.
    user: CString,
    questions: usize,
    /// What modules said.
    said: String,
}

/// What a message is answered with.
enum Reply<'a> {
    /// A text.
    Text(&'a CStr),
    /// A secret, which is given once.
    Secret(CString),
    /// It was no question.
    Nothing,
    /// No answer is known.
    None,
}

impl Conversation {
    fn reply(&mut self, style: c_int, text: &CStr) -> Reply<'_> {
        self.questions += 1;
        if self.questions > MOST_QUESTIONS {
            return Reply::None;
        }
        match style {
            PROMPT_ECHO_OFF => match self.secrets.pop() {
                Some(secret) => Reply::Secret(secret),
                // The password once more could go to another module, whom it is none of the business.
                None => Reply::None,
            },
            PROMPT_ECHO_ON => Reply::Text(&self.user),
            ERROR_MESSAGE | TEXT_INFO => {
                let text = text.to_string_lossy();
                let room = MOST_SAID.saturating_sub(self.said.len());
                if !self.said.is_empty() && room > 0 {
                    self.said.push(' ');
                }
                self.said.extend(
                    text.chars()
                        .filter(|character| !character.is_control())
                        .take(room / 4),
                );
                Reply::Nothing
            }
            _ => Reply::None,
        }
    }
}

/// Called by libpam with `count` messages; gives it as many responses, which it frees.
///
/// It must not panic: it is called from C, where a panic ends the process. Nothing in it indexes,
/// unwraps or adds without bounds.
///
/// # Safety
///
/// libpam's contract: `messages` points to `count` pointers to messages with texts that end with a
/// zero byte, `responses` may be written, `data` is what `pam_start` was given.
unsafe extern "C" fn converse(
    count: c_int,
    messages: *const *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int {
    let Ok(count) = usize::try_from(count) else {
        return CONVERSATION_ERROR;
    };
    if count == 0
        || count > MOST_MESSAGES
        || messages.is_null()
        || responses.is_null()
        || data.is_null()
    {
        return CONVERSATION_ERROR;
    }
    // SAFETY: `data` is the pointer that `Transaction::start` made of its boxed conversation, which
    // outlives the handle. libpam calls back only while it runs on our one thread, inside a method of
    // `Transaction` that does not use the conversation until libpam has returned.
    let conversation = unsafe { &mut *data.cast::<Conversation>() };
    // SAFETY: no contract; `calloc` gives null when there is no memory. Zeroed memory is `count`
    // responses without text.
    let made: *mut Response =
        unsafe { libc::calloc(count, size_of::<Response>()) }.cast::<Response>();
    if made.is_null() {
        return BUFFER_ERROR;
    }
    // SAFETY: libpam gave `count` pointers, which nobody changes while it waits for us.
    let messages = unsafe { slice::from_raw_parts(messages, count) };
    // SAFETY: zeroed room for `count` responses, which is ours alone.
    let filled = unsafe { slice::from_raw_parts_mut(made, count) };
    for (message, response) in messages.iter().zip(filled) {
        // SAFETY: the pointer is null, or libpam's message.
        let answered = unsafe { answer(conversation, *message) };
        let Some(text) = answered else {
            // SAFETY: `made` has `count` responses, whose texts are null or ours.
            unsafe { discard(made, count) };
            return CONVERSATION_ERROR;
        };
        response.text = text;
    }
    // SAFETY: checked not to be null; libpam lets it be written.
    unsafe { *responses = made };
    SUCCESS
}

/// The answer to a message, null where none is due; `None` if there should be one and is not.
///
/// # Safety
///
/// `message` is null or libpam's message.
unsafe fn answer(conversation: &mut Conversation, message: *const Message) -> Option<*mut c_char> {
    // SAFETY: null, or libpam's message, which lives while libpam waits for us.
    let message = unsafe { message.as_ref() }?;
    let text = if message.text.is_null() {
        c""
    } else {
        // SAFETY: not null, so it is a text that ends with a zero byte and lives as the message does.
        unsafe { CStr::from_ptr(message.text) }
    };
    let copied = match conversation.reply(message.style, text) {
        Reply::Nothing => return Some(ptr::null_mut()),
        Reply::None => return None,
        Reply::Text(text) => copy(text),
        Reply::Secret(secret) => copy(&secret),
    };
    (!copied.is_null()).then_some(copied)
}

/// A copy that libpam frees; null when there is no memory.
fn copy(text: &CStr) -> *mut c_char {
    // SAFETY: `text` ends with a zero byte.
    unsafe { libc::strdup(text.as_ptr()) }
}

/// Frees responses that libpam will not get.
///
/// # Safety
///
/// `made` was allocated by `calloc` with room for `count` responses, whose texts are null or come from
/// [`copy`]. Nobody uses them afterwards.
unsafe fn discard(made: *mut Response, count: usize) {
    // SAFETY: as the caller promises.
    let responses = unsafe { slice::from_raw_parts(made, count) };
    for Response { text, .. } in responses {
        let text = *text;
        if !text.is_null() {
            // SAFETY: `text` is a text of `copy`, so it ends with a zero byte.
            let length = unsafe { libc::strlen(text) };
            // SAFETY: all `length` bytes are the text's own.
            unsafe { libc::explicit_bzero(text.cast(), length) };
            // SAFETY: it comes from `strdup` and is freed once.
            unsafe { libc::free(text.cast()) };
        }
    }
    // SAFETY: it comes from `calloc` and is freed once.
    unsafe { libc::free(made.cast()) };
}

/// Who a transaction is about.
pub(crate) struct Subject<'a> {
    /// The PAM service.
    pub(crate) service: &'a str,
    /// The account's name, as PAM shall see it.
    pub(crate) user: &'a [u8],
    /// Passwords, in the order in which they are asked for.
    pub(crate) secrets: Vec<Vec<u8>>,
    /// Where the user's browser is, for modules that have rules about it.
    pub(crate) remote_host: Option<&'a str>,
}

/// One conversation with PAM about one user.
pub(crate) struct Transaction {
    functions: Functions,
    handle: *mut Handle,
    /// Owned; libpam has the same pointer. Freed after the handle.
    conversation: *mut Conversation,
    /// What the last call returned, which `pam_end` wants to know.
    last: c_int,
}

impl Transaction {
    /// Begins a conversation.
    ///
    /// No terminal is named: there is none, and modules with rules about terminals take the service's
    /// name then.
    pub(crate) fn start(subject: Subject<'_>) -> Result<Self, PamError> {
        let functions = Functions::load()?;
        let service = text(subject.service.as_bytes(), "the PAM service")?;
        let user = text(subject.user, "the name")?;
        let remote_host = subject
            .remote_host
            .map(|host| text(host.as_bytes(), "the address"))
            .transpose()?;
        let mut secrets = Vec::new();
        for secret in subject.secrets.into_iter().rev() {
            if secret.len() > LONGEST_ANSWER {
                return Err(PamError::sentence("the password is too long".to_owned()));
            }
            secrets.push(
                CString::new(secret)
                    .map_err(|_| PamError::sentence("the password has a zero byte".to_owned()))?,
            );
        }
        let conversation = Box::into_raw(Box::new(Conversation {
            secrets,
            user: user.clone(),
            questions: 0,
            said: String::new(),
        }));
        let callback = Callback {
            function: converse,
            data: conversation.cast(),
        };
        let mut handle = ptr::null_mut();
        // SAFETY: all texts end with a zero byte and are copied by libpam, and so is `callback`;
        // `conversation` lives until `Drop`, after `pam_end`.
        let code = unsafe {
            (functions.start)(
                service.as_ptr(),
                user.as_ptr(),
                &raw const callback,
                &raw mut handle,
            )
        };
        // Whatever happens from here on, `Drop` frees what was made.
        let mut transaction = Self {
            functions,
            handle,
            conversation,
            last: code,
        };
        if code != SUCCESS || transaction.handle.is_null() {
            return Err(transaction.error(code));
        }
        if let Some(host) = remote_host {
            // SAFETY: the handle is valid; the text ends with a zero byte and is copied by libpam.
            let code = unsafe {
                (transaction.functions.set_item)(
                    transaction.handle,
                    ITEM_RHOST,
                    host.as_ptr().cast(),
                )
            };
            transaction.result(code)?;
        }
        Ok(transaction)
    }

    /// Checks the password. An account without a password is refused: these are for the console.
    pub(crate) fn authenticate(&mut self) -> Result<(), PamError> {
        // SAFETY: the handle is valid until `Drop`.
        let code = unsafe { (self.functions.authenticate)(self.handle, DISALLOW_NULL_AUTHTOK) };
        self.result(code)
    }

    /// Checks whether the account may be used now.
    pub(crate) fn check_account(&mut self) -> Result<(), PamError> {
        // SAFETY: the handle is valid until `Drop`.
        let code = unsafe { (self.functions.acct_mgmt)(self.handle, DISALLOW_NULL_AUTHTOK) };
        self.result(code)
    }

    /// Renews tickets and the like after a login. Whether that works matters to nobody.
    pub(crate) fn renew_credentials(&mut self) {
        // SAFETY: the handle is valid until `Drop`.
        let code = unsafe { (self.functions.setcred)(self.handle, REINITIALIZE_CREDENTIALS) };
        // `pam_end` is told how the login ended, not this.
        let _ = code;
    }

    /// The user's name as the modules changed it, if it is text.
    pub(crate) fn user(&mut self) -> Option<String> {
        let mut item = ptr::null();
        // SAFETY: the handle is valid until `Drop`; libpam writes a pointer to what it owns, or null.
        let code = unsafe { (self.functions.get_item)(self.handle, ITEM_USER, &raw mut item) };
        if code != SUCCESS || item.is_null() {
            return None;
        }
        // SAFETY: not null, so it is the item's text, which ends with a zero byte and lives until the
        // next call into libpam; it is copied before that.
        let name = unsafe { CStr::from_ptr(item.cast()) };
        name.to_str().ok().map(str::to_owned)
    }

    fn open_session(&mut self) -> Result<(), PamError> {
        // SAFETY: the handle is valid until `Drop`.
        let code = unsafe { (self.functions.setcred)(self.handle, ESTABLISH_CREDENTIALS) };
        self.result(code)?;
        // SAFETY: as above.
        let code = unsafe { (self.functions.open_session)(self.handle, 0) };
        self.result(code).inspect_err(|_| {
            // SAFETY: as above.
            unsafe { (self.functions.setcred)(self.handle, DELETE_CREDENTIALS) };
        })
    }

    fn close_session(&mut self) -> Result<(), PamError> {
        // SAFETY: the handle is valid until `Drop`.
        let closed = unsafe { (self.functions.close_session)(self.handle, 0) };
        // SAFETY: as above.
        let deleted = unsafe { (self.functions.setcred)(self.handle, DELETE_CREDENTIALS) };
        self.result(closed)?;
        self.result(deleted)
    }

    /// The environment that modules made.
    fn environment(&mut self) -> Vec<(OsString, OsString)> {
        // SAFETY: the handle is valid until `Drop`.
        let list = unsafe { (self.functions.getenvlist)(self.handle) };
        let mut variables = Vec::new();
        if list.is_null() {
            return variables;
        }
        let mut next = list;
        loop {
            // SAFETY: `next` is within the list, which ends with a null pointer where we stop.
            let entry = unsafe { *next };
            if entry.is_null() {
                break;
            }
            // SAFETY: an entry is a text that ends with a zero byte; it is ours since the call.
            let bytes = unsafe { CStr::from_ptr(entry) }.to_bytes().to_vec();
            // SAFETY: entries are allocated one by one and are the caller's to free; copied above.
            unsafe { libc::free(entry.cast()) };
            if let Some(at) = bytes.iter().position(|byte| *byte == b'=')
                && at > 0
            {
                variables.push((
                    OsString::from_vec(bytes[..at].to_vec()),
                    OsString::from_vec(bytes[at + 1..].to_vec()),
                ));
            }
            // SAFETY: this entry was not null, so there is another after it.
            next = unsafe { next.add(1) };
        }
        // SAFETY: the list is allocated by libpam and the caller's to free.
        unsafe { libc::free(list.cast()) };
        variables
    }

    fn result(&mut self, code: c_int) -> Result<(), PamError> {
        self.last = code;
        if code == SUCCESS {
            return Ok(());
        }
        Err(self.error(code))
    }

    fn error(&mut self, code: c_int) -> PamError {
        // SAFETY: libpam's texts for numbers are constants, which the handle (null when `pam_start`
        // failed) does not matter for.
        let text = unsafe { (self.functions.strerror)(self.handle, code) };
        let text = if text.is_null() {
            "unknown error".to_owned()
        } else {
            // SAFETY: not null, so it is a constant text that ends with a zero byte.
            let text = unsafe { CStr::from_ptr(text) };
            text.to_string_lossy().into_owned()
        };
        // SAFETY: the conversation lives until `Drop`, and libpam does not run now.
        let conversation = unsafe { &mut *self.conversation };
        PamError {
            code: Some(code),
            text,
            said: std::mem::take(&mut conversation.said),
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: the handle is valid and not used afterwards.
            unsafe { (self.functions.end)(self.handle, self.last) };
        }
        // SAFETY: the pointer comes from `Box::into_raw` and is freed once; libpam, which had it too,
        // has forgotten the handle.
        drop(unsafe { Box::from_raw(self.conversation) });
    }
}

fn text(bytes: &[u8], what: &str) -> Result<CString, PamError> {
    CString::new(bytes).map_err(|_| PamError::sentence(format!("{what} has a zero byte")))
}

/// An open PAM session. It belongs to the process that opened it, which closes it.
pub(crate) struct Session {
    /// What the session's modules want in the environment of whoever it is for.
    pub(crate) environment: Vec<(OsString, OsString)>,
    transaction: Transaction,
}

impl Session {
    /// Opens a session, as root; a sentence when it cannot be.
    ///
    /// Modules change the calling process (`pam_limits` its limits, `pam_group` its supplementary
    /// groups, `pam_umask` its umask), so the caller sets the account's groups before, and the server
    /// inherits the rest.
    pub(crate) fn open(service: &str, user: &str) -> Result<Self, String> {
        let subject = Subject {
            service,
            user: user.as_bytes(),
            secrets: Vec::new(),
            remote_host: None,
        };
        let refuse =
            |error: PamError| format!("The PAM session ({service}) cannot be opened: {error}.");
        let mut transaction = Transaction::start(subject).map_err(refuse)?;
        transaction.open_session().map_err(refuse)?;
        Ok(Self {
            environment: transaction.environment(),
            transaction,
        })
    }

    /// Closes it, as root. What a module has against that nobody could act upon.
    pub(crate) fn close(mut self) {
        let _ = self.transaction.close_session();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(secrets: &[&str]) -> Conversation {
        Conversation {
            secrets: secrets
                .iter()
                .rev()
                .map(|secret| CString::new(*secret).expect("no zero byte"))
                .collect(),
            user: c"ada".to_owned(),
            questions: 0,
            said: String::new(),
        }
    }

    /// Calls back as libpam does, and takes the texts of the responses.
    fn ask(
        conversation: &mut Conversation,
        styles: &[c_int],
    ) -> Result<Vec<Option<String>>, c_int> {
        let messages: Vec<Message> = styles
            .iter()
            .map(|style| Message {
                style: *style,
                text: c"Your turn\n".as_ptr(),
            })
            .collect();
        let pointers: Vec<*const Message> = messages.iter().map(ptr::from_ref).collect();
        let mut responses = ptr::null_mut();
        // SAFETY: the pointers are as many as said, and the conversation is a conversation.
        let code = unsafe {
            converse(
                c_int::try_from(styles.len()).expect("few"),
                pointers.as_ptr(),
                &raw mut responses,
                ptr::from_mut(conversation).cast(),
            )
        };
        if code != SUCCESS {
            assert!(responses.is_null());
            return Err(code);
        }
        // SAFETY: there are as many responses as messages.
        let texts = unsafe { slice::from_raw_parts(responses, styles.len()) }
            .iter()
            .map(|response| {
                // SAFETY: a text that is not null ends with a zero byte.
                (!response.text.is_null()).then(|| unsafe { CStr::from_ptr(response.text) })
            })
            .map(|text| text.map(|text| text.to_string_lossy().into_owned()))
            .collect();
        // SAFETY: the responses are ours now, and are not used afterwards.
        unsafe { discard(responses, styles.len()) };
        Ok(texts)
    }

    #[test]
    fn hidden_questions_get_the_secrets_in_order_and_visible_ones_the_name() {
        let mut talk = conversation(&["sesame", "123456"]);
        let answers = ask(
            &mut talk,
            &[TEXT_INFO, PROMPT_ECHO_ON, PROMPT_ECHO_OFF, PROMPT_ECHO_OFF],
        );
        let expected = [None, Some("ada"), Some("sesame"), Some("123456")];
        let expected: Vec<_> = expected
            .iter()
            .map(|text| text.map(str::to_owned))
            .collect();
        assert_eq!(answers, Ok(expected));
        assert_eq!(talk.said, "Your turn");
    }

    #[test]
    fn a_secret_is_given_only_once() {
        let mut talk = conversation(&["sesame"]);
        assert!(ask(&mut talk, &[PROMPT_ECHO_OFF]).is_ok());
        assert_eq!(ask(&mut talk, &[PROMPT_ECHO_OFF]), Err(CONVERSATION_ERROR));
        let mut talk = conversation(&["sesame"]);
        assert_eq!(
            ask(&mut talk, &[PROMPT_ECHO_OFF, PROMPT_ECHO_OFF]),
            Err(CONVERSATION_ERROR)
        );
    }

    #[test]
    fn a_stack_that_talks_for_ever_is_left_and_what_it_said_is_bounded() {
        let mut talk = conversation(&[]);
        let calls = (0..20).take_while(|_| ask(&mut talk, &[TEXT_INFO; 10]).is_ok());
        assert_eq!(calls.count(), MOST_QUESTIONS / 10);
        assert!(talk.said.len() <= MOST_SAID);
        for count in [0, MOST_MESSAGES + 1] {
            let styles = vec![TEXT_INFO; count];
            assert_eq!(
                ask(&mut conversation(&[]), &styles),
                Err(CONVERSATION_ERROR)
            );
        }
        assert_eq!(ask(&mut conversation(&[]), &[77]), Err(CONVERSATION_ERROR));
    }
}
