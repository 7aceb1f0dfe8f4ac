// What follows the examples of the guide in the page: it sends files that are chosen, and says what becomes of them.

const say = (text) => {
    document.getElementById('state').innerText = text;
};
uppy.on('upload-error', (file, error) => say(`failed: ${error.message}`));
uppy.on('upload-success', (file, { body }) => say(`stored ${body.key ?? file.name}`));
document.querySelector('input').onchange = ({ target }) => {
    say('');
    const [data] = target.files;
    uppy.addFile({ name: data.name, type: data.type, data });
    // A file that is canceled has no result.
    uppy.upload();
    target.value = '';
};
window.uppy = uppy;
